//! How the etcd cluster is, and what an operator does to it. Called by the coordinator's status and member commands.
//!
//! Invariant: a member that does not answer is told as such and delays the answer by one deadline at most; nothing here
//! changes what the store holds.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, Error, MemberAddOptions, SnapshotStreaming};
use futures::future::join_all;
use proto::model::Time;

use super::{
    EtcdStore, Shared,
    client::{Endpoint, Failure, classify, connect_options, open},
    quota,
};
use crate::store::ReadError;

/// Time for one member to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Time for its metrics, once it has answered.
const METRICS: Duration = Duration::from_millis(500);
/// Time for a change of the members.
const CHANGE: Duration = Duration::from_secs(10);
/// Time to rewrite one member's file.
const DEFRAG: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdStatus {
    /// One for each endpoint that we were told of.
    pub endpoints: Vec<MemberStatus>,
    /// As etcd itself has them; empty: nobody answered.
    pub members: Vec<MemberInfo>,
    /// Such as `NOSPACE` with the member's id.
    pub alarms: Vec<(u64, String)>,
    /// Certificates of the connections to it, and when they end.
    pub certificates: Vec<(String, Time)>,
    /// What an operator should know, one sentence each.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    pub endpoint: String,
    /// Why it does not serve; the rest is then empty.
    pub fault: Option<String>,
    pub member_id: u64,
    pub version: String,
    pub db_size: u64,
    pub db_size_in_use: u64,
    /// Where it tells it: in its status (3.6), or else by its metrics.
    pub quota: Option<u64>,
    pub leader: bool,
    pub learner: bool,
    pub raft_term: u64,
    pub raft_index: u64,
    /// Faults that the member tells of itself.
    pub errors: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberInfo {
    pub id: u64,
    /// Empty until it has started.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub learner: bool,
}

impl From<&etcd_client::Member> for MemberInfo {
    fn from(m: &etcd_client::Member) -> Self {
        Self {
            id: m.id(),
            name: m.name().to_owned(),
            peer_urls: m.peer_urls().to_vec(),
            client_urls: m.client_urls().to_vec(),
            learner: m.0.is_learner,
        }
    }
}

impl EtcdStore {
    /// Asks every endpoint at once.
    pub async fn status(&self) -> EtcdStatus {
        let shared = &self.shared;
        let asked = shared.cluster.endpoints.iter().map(|e| shared.member_status(e));
        let endpoints = join_all(asked).await;
        let members = self.members().await.unwrap_or_default();
        let alarms = shared
            .alarms(AlarmAction::Get, AlarmType::None, 0)
            .await
            .unwrap_or_default();
        let alarms: Vec<_> = alarms
            .into_iter()
            .map(|(id, alarm)| (id, alarm.as_str_name().to_owned()))
            .collect();
        let warnings = warnings(&endpoints, &members, &alarms);
        EtcdStatus {
            certificates: shared.cluster.certificates.clone(),
            endpoints,
            members,
            alarms,
            warnings,
        }
    }

    pub async fn members(&self) -> Result<Vec<MemberInfo>, ReadError> {
        let ask = |client: Client| async move { client.cluster_client().member_list().await };
        let answer = self.shared.admin(ANSWER, true, ask).await?;
        Ok(answer.members().iter().map(MemberInfo::from).collect())
    }

    /// As a learner it votes only once it is promoted.
    pub async fn member_add(&self, peer_urls: Vec<String>, learner: bool) -> Result<MemberInfo, ReadError> {
        let options = if learner {
            MemberAddOptions::new().with_is_learner()
        } else {
            MemberAddOptions::new()
        };
        let ask = |client: Client| {
            let (urls, options) = (peer_urls.clone(), options.clone());
            async move { client.cluster_client().member_add(urls, Some(options)).await }
        };
        let answer = self.shared.admin(CHANGE, false, ask).await?;
        Ok(answer.member().map(MemberInfo::from).unwrap_or_default())
    }

    pub async fn member_promote(&self, id: u64) -> Result<(), ReadError> {
        let ask = |client: Client| async move { client.cluster_client().member_promote(id).await };
        self.shared.admin(CHANGE, false, ask).await.map(drop)
    }

    pub async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<(), ReadError> {
        let ask = |client: Client| {
            let urls = peer_urls.clone();
            async move { client.cluster_client().member_update(id, urls).await }
        };
        self.shared.admin(CHANGE, false, ask).await.map(drop)
    }

    pub async fn member_remove(&self, id: u64) -> Result<(), ReadError> {
        let ask = |client: Client| async move { client.cluster_client().member_remove(id).await };
        self.shared.admin(CHANGE, false, ask).await.map(drop)
    }

    /// Rewrites the file of the member behind one endpoint, which serves nothing meanwhile.
    pub async fn defrag(&self, endpoint: &str) -> Result<(), ReadError> {
        let client = self.shared.plain(endpoint).await.map_err(super::read_error)?;
        let mut maintenance = client.maintenance_client();
        let answer = tokio::time::timeout(DEFRAG, maintenance.defragment()).await;
        settled(endpoint, DEFRAG, answer).map(drop)
    }

    /// Ends an alarm of every member that has it.
    pub async fn disarm(&self) -> Result<(), ReadError> {
        let alarms = self.shared.alarms(AlarmAction::Get, AlarmType::None, 0).await;
        for (member, alarm) in alarms.map_err(super::read_error)? {
            let ended = self.shared.alarms(AlarmAction::Deactivate, alarm, member).await;
            ended.map_err(super::read_error)?;
        }
        Ok(())
    }

    /// A consistent copy of one member's file, in pieces. Who reads it sets how long a piece may take.
    pub async fn snapshot(&self) -> Result<SnapshotStreaming, ReadError> {
        let ask = |client: Client| async move { client.maintenance_client().snapshot().await };
        self.shared.admin(CHANGE, true, ask).await
    }
}

fn settled<T>(
    endpoint: &str,
    patience: Duration,
    answer: Result<Result<T, Error>, tokio::time::error::Elapsed>,
) -> Result<T, ReadError> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(ReadError::Unavailable(format!("etcd {endpoint}: {}", classify(&e)))),
        Err(_) => Err(ReadError::Unavailable(format!(
            "etcd {endpoint}: no answer within {patience:?}"
        ))),
    }
}

impl Shared {
    /// A client that also asks members without a leader.
    async fn plain(&self, endpoint: &str) -> Result<Client, Failure> {
        let options = connect_options(&self.options).map_err(|e| Failure::Unsent(e.to_string()))?;
        let opened = open(endpoint, options).await;
        opened.map_err(|e| Failure::Unsent(e.to_string()))
    }

    async fn member_status(&self, at: &Endpoint) -> MemberStatus {
        let endpoint = at.url.as_str();
        let ask = async {
            let client = self.plain(endpoint).await?;
            let mut maintenance = client.maintenance_client();
            maintenance.status().await.map_err(|e| classify(&e))
        };
        let answer = match tokio::time::timeout(ANSWER, ask).await {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(_) => Err(format!("no answer within {ANSWER:?}")),
        };
        let mut status = MemberStatus {
            endpoint: endpoint.to_owned(),
            ..MemberStatus::default()
        };
        match answer {
            Err(why) => status.fault = Some(why),
            Ok(answer) => {
                let size = |n: i64| u64::try_from(n).unwrap_or(0);
                status.member_id = answer.header().map_or(0, etcd_client::ResponseHeader::member_id);
                status.version = answer.version().to_owned();
                status.db_size = size(answer.db_size());
                status.db_size_in_use = size(answer.raft_used_db_size());
                status.quota = Some(size(answer.db_size_quota())).filter(|q| *q > 0);
                if status.quota.is_none() {
                    status.quota = self.quota(at).await;
                }
                status.leader = answer.leader() != 0 && answer.leader() == status.member_id;
                status.learner = answer.is_learner();
                status.raft_term = answer.raft_term();
                status.raft_index = answer.raft_index();
                status.errors = answer.errors().to_vec();
                if answer.leader() == 0 {
                    status.fault = Some("it has no leader".to_owned());
                }
            }
        }
        status
    }

    /// What a member may hold that does not tell it by itself; it does not change while it runs.
    async fn quota(&self, at: &Endpoint) -> Option<u64> {
        if let Some(known) = at.quota.get() {
            return Some(*known);
        }
        let asked = quota::ask(&at.url, self.cluster.tls.as_ref());
        let bytes = tokio::time::timeout(METRICS, asked).await.ok()??;
        Some(*at.quota.get_or_init(|| bytes))
    }

    /// Asks one endpoint after the other; only what changes nothing is asked again where the answer was lost.
    async fn admin<T, F>(&self, patience: Duration, again: bool, ask: impl Fn(Client) -> F) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut reasons = Vec::new();
        for endpoint in self.cluster.in_turn() {
            let failure = match tokio::time::timeout(patience, ask(endpoint.client())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(e)) => classify(&e),
                Err(_) => Failure::Unclear(format!("no answer within {patience:?}")),
            };
            reasons.push(format!("{}: {failure}", endpoint.url));
            if !(matches!(failure, Failure::Unsent(_)) || again && matches!(failure, Failure::Unclear(_))) {
                break;
            }
        }
        Err(ReadError::Unavailable(format!("etcd: {}", reasons.join("; "))))
    }

    pub(super) async fn alarms(
        &self,
        action: AlarmAction,
        alarm: AlarmType,
        member: u64,
    ) -> Result<Vec<(u64, AlarmType)>, Failure> {
        let mut why = Failure::Unsent("there is no endpoint".to_owned());
        for endpoint in self.cluster.in_turn() {
            let mut options = AlarmOptions::new();
            options.with_member(member);
            let mut client = endpoint.client().maintenance_client();
            match tokio::time::timeout(ANSWER, client.alarm(action, alarm, Some(options))).await {
                Ok(Ok(answer)) => {
                    let read = |a: &etcd_client::proto::PbAlarmMember| {
                        (a.member_id, AlarmType::try_from(a.alarm).unwrap_or(AlarmType::None))
                    };
                    return Ok(answer.0.alarms.iter().map(read).collect());
                }
                Ok(Err(e)) => why = classify(&e),
                Err(_) => why = Failure::Unclear(format!("{}: no answer within {ANSWER:?}", endpoint.url)),
            }
        }
        Err(why)
    }
}

fn warnings(endpoints: &[MemberStatus], members: &[MemberInfo], alarms: &[(u64, String)]) -> Vec<String> {
    let mut out = Vec::new();
    let voters = members.iter().filter(|m| !m.learner).count();
    if voters == 1 {
        out.push("etcd has one member only: its loss is the loss of the state; add two members".to_owned());
    } else if voters == 2 {
        out.push("etcd has two voting members: it stops when either is lost; add a third".to_owned());
    }
    for member in members.iter().filter(|m| m.name.is_empty()) {
        let urls = member.peer_urls.join(",");
        out.push(format!(
            "etcd member {:x} ({urls}) was added and has not started",
            member.id
        ));
    }
    for endpoint in endpoints {
        if let Some(fault) = &endpoint.fault {
            out.push(format!("etcd {} does not serve: {fault}", endpoint.endpoint));
        }
        if let Some(known) = known_fault(&endpoint.version) {
            out.push(format!("etcd {} runs {}, {known}", endpoint.endpoint, endpoint.version));
        }
        if let Some(quota) = endpoint.quota.filter(|q| endpoint.db_size * 10 >= q * 8) {
            out.push(format!(
                "etcd {} uses {} of its quota of {quota} bytes",
                endpoint.endpoint, endpoint.db_size
            ));
        }
    }
    for (member, alarm) in alarms {
        out.push(format!("etcd member {member:x} has the alarm {alarm}"));
    }
    out
}

/// What is known of a release that an operator should not stay on.
pub(super) fn known_fault(version: &str) -> Option<&'static str> {
    let mut numbers = version.split(['.', '-', '+']).map(|n| n.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    match (next()?, next()?, next()?) {
        (3, 5, 0..=2) => Some("which can corrupt its data when it is killed: upgrade to a newer 3.5"),
        (3, 4, 0..=23) => {
            Some("whose watch may repeat or lose events; Wharfinger checks for that every minute: upgrade when you can")
        }
        (3, 0..=3, _) | (0..=2, _, _) => Some("which is too old to be used: upgrade"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_known_bad_are_named() {
        for (version, bad) in [
            ("3.5.0", true),
            ("3.5.1", true),
            ("3.5.2", true),
            ("3.5.3", false),
            ("3.5.17", false),
            ("3.4.23", true),
            ("3.4.34", false),
            ("3.6.0-rc.1", false),
            ("3.3.10", true),
            ("", false),
            ("unknown", false),
        ] {
            assert_eq!(known_fault(version).is_some(), bad, "{version:?}");
        }
    }

    #[test]
    fn warnings_name_the_member_and_the_remedy() {
        let member = |name: &str, learner| MemberInfo {
            id: 255,
            name: name.to_owned(),
            learner,
            ..MemberInfo::default()
        };
        let three = [member("a", false), member("b", false), member("c", false)];
        let well = MemberStatus {
            endpoint: "https://a:2379".to_owned(),
            version: "3.5.17".to_owned(),
            db_size: 79,
            quota: Some(100),
            ..MemberStatus::default()
        };
        assert!(warnings(std::slice::from_ref(&well), &three, &[]).is_empty());
        let one = warnings(&[], &[member("a", false), member("b", true)], &[]);
        assert!(one.len() == 1 && one[0].contains("one member only"), "{one:?}");
        let full = MemberStatus { db_size: 80, ..well };
        let told = warnings(&[full], &three, &[(255, "NOSPACE".to_owned())]);
        assert_eq!(
            told,
            [
                "etcd https://a:2379 uses 80 of its quota of 100 bytes",
                "etcd member ff has the alarm NOSPACE"
            ]
        );
    }
}
