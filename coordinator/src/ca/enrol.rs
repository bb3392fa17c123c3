//! A host joins: a token and a request for a certificate become a node and its identity. Called by
//! [`super::service`] on the enrolment port.
//!
//! A token for the name of a node that exists lets a host with a new disk come back under that node's record: the
//! node stays as it is but for the labels that are ours, and the new certificate takes the old one's place in the same
//! commit, a generation later.
//!
//! Invariant: use count, node, certificate record and audit record are one commit; the same key never makes
//! two nodes and never costs two uses of one token; a refusal costs none.

use bytes::Bytes;
use proto::{
    identity::Role,
    model::{Kind, Node, ObjectMeta, Time},
    token::JoinToken,
    wire,
};
use serde_json::{Value, json};
use tonic::Status;

use super::{
    Authority,
    audit::AuditRecord,
    certs::CertRecord,
    issue::{PublicKey, parse_csr},
    labels::{self, Labels},
    tokens::{Joined, Refusal, TokenRecord, check_node_name},
};
use crate::{
    session::check_version,
    store::{Change, CommitError, Entry, Expect, ReadError, Rv, keys},
    world::record::{HolderRecord, encode},
};

/// The one text for every refused token.
pub const REFUSED: &str = "the join token was refused: it is unknown, expired, spent, revoked, or for another role; \
                           make a new one with wharf token create";

/// Why a host did not join; the message is what it is told.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum JoinError {
    #[error("{0}")]
    Malformed(String),
    #[error("{REFUSED}")]
    Refused,
    #[error("too many refused joins just now; try again in {0} ms")]
    TooMany(u64),
    #[error("the join token is for node {wanted:?} only, not {asked:?}; start the agent with --name {wanted}")]
    OtherNode { wanted: String, asked: String },
    #[error(
        "node {0:?} already exists and belongs to another key; choose another --name; if this is its host with a new disk: wharf token create --node {0}; if that host is gone: wharf delete node {0}"
    )]
    NameTaken(String),
    #[error(
        "this machine is node {other:?} already and cannot be node {asked:?} too; start its agent with --name {other}, or, for several nodes on one machine, all of their agents with --shared-host; if it is another machine, its image was copied with its machine id: remove /etc/machine-id, then systemd-machine-id-setup"
    )]
    SameMachine { other: String, asked: String },
    #[error(
        "coordinator {0:?} already exists and belongs to another host; choose another --name; if that host is gone for good: wharf cluster remove-coordinator {0}, then join again"
    )]
    CoordinatorTaken(String),
    #[error("address: {address} is coordinator {other:?}'s already; give this one's own as --advertise")]
    AddressTaken { address: String, other: String },
    #[error(
        "this cluster keeps its state in {0}, which one coordinator has for itself; move it to etcd first: wharf-coordinator migrate"
    )]
    StoreOfOne(String),
    #[error("{0}")]
    Version(String),
    #[error(
        "the clocks are too far apart: this host says {host}, the coordinator {coordinator}; set the host's clock and start again"
    )]
    ClockSkew { host: Time, coordinator: Time },
    #[error("{0}")]
    Unavailable(String),
}

impl From<JoinError> for Status {
    fn from(error: JoinError) -> Self {
        let message = error.to_string();
        match error {
            JoinError::Malformed(_) => Self::invalid_argument(message),
            JoinError::Refused => Self::unauthenticated(message),
            JoinError::TooMany(_) => Self::resource_exhausted(message),
            JoinError::OtherNode { .. } => Self::permission_denied(message),
            JoinError::NameTaken(_)
            | JoinError::SameMachine { .. }
            | JoinError::CoordinatorTaken(_)
            | JoinError::AddressTaken { .. } => Self::already_exists(message),
            JoinError::ClockSkew { .. } | JoinError::Version(_) | JoinError::StoreOfOne(_) => {
                Self::failed_precondition(message)
            }
            JoinError::Unavailable(_) => Self::unavailable(message),
        }
    }
}

impl From<ReadError> for JoinError {
    fn from(error: ReadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<CommitError> for JoinError {
    fn from(error: CommitError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

pub(super) fn not_active() -> String {
    "this coordinator is not the active one or is starting; try again, or another coordinator".into()
}

/// One token with its record, read at a version.
pub(super) struct Presented {
    pub token: JoinToken,
    pub record: TokenRecord,
    pub rv: Rv,
}

impl Presented {
    /// The change that counts one more use.
    pub fn used_by(self, name: &str, key: &PublicKey) -> Change {
        let Self { token, mut record, rv } = self;
        record.used += 1;
        record.joined.push(Joined {
            node: name.to_owned(),
            key: key.hash.clone(),
        });
        record.change(&token.id, Expect::At(rv))
    }
}

/// What a host says of itself, checked.
struct Host<'a> {
    key: PublicKey,
    /// The node's name that it asks for.
    name: &'a str,
    machine: &'a str,
    shared: bool,
    /// The labels of its node that are the coordinator's own.
    labels: Labels,
}

/// Longest machine id; as of facts.
const MAX_MACHINE: usize = 256;

/// What will be committed, and the node that results.
struct Plan {
    changes: Vec<Change>,
    node: String,
    issued: wire::Issued,
}

impl Authority {
    /// The whole of `Enrol.Enrol`.
    pub async fn enrol(&self, request: &wire::EnrolRequest) -> Result<wire::EnrolReply, JoinError> {
        let token = JoinToken::parse(&request.token).map_err(|e| JoinError::Malformed(format!("token: {e}")))?;
        // Before anything costly: a stranger gets one HMAC of our time.
        self.present(&token, Role::Agent).await?;
        self.check_clock(request.clock_ms)?;
        let key = parse_csr(&request.csr_der).map_err(|e| JoinError::Malformed(e.to_string()))?;
        check_node_name(&request.node_name).map_err(|e| JoinError::Malformed(format!("node_name: {e}")))?;
        let machine = &request.machine_id;
        if machine.len() > MAX_MACHINE || machine.chars().any(char::is_control) {
            let what = format!("machine_id: longer than {MAX_MACHINE} bytes, or with control characters");
            return Err(JoinError::Malformed(what));
        }
        check_version(proto::VERSION, &request.version).map_err(JoinError::Version)?;
        let host = Host {
            key,
            name: &request.node_name,
            machine,
            shared: request.shared_host,
            labels: labels::own(&request.node_name, &request.architecture, &request.operating_system),
        };

        // One after the other: they contend for the token's record, and this way nearly none has to repeat.
        let _turn = self
            .0
            .turn
            .acquire()
            .await
            .map_err(|_| JoinError::Unavailable(not_active()))?;
        for _ in 0..self.0.settings.commit_attempts {
            let fence = (self.0.fence)().ok_or_else(|| JoinError::Unavailable(not_active()))?;
            let presented = self.present(&token, Role::Agent).await?;
            let plan = self.plan_join(presented, &host).await?;
            match self.commit(&fence, plan.changes).await {
                Ok(()) => {
                    tracing::info!(node = plan.node, token = token.id, "node joined");
                    return Ok(wire::EnrolReply {
                        issued: Some(plan.issued),
                        cluster_id: self.cluster().to_owned(),
                        node_name: plan.node,
                        coordinators: self.coordinators(),
                        clock_ms: self.now_ms(),
                    });
                }
                Err(CommitError::Conflict { key, .. }) => tracing::debug!(key, "join conflicts; reading again"),
                Err(error) => return Err(error.into()),
            }
        }
        Err(JoinError::Unavailable("too many joins at once; try again".into()))
    }

    /// Whoever joins must not live in another time.
    pub(super) fn check_clock(&self, theirs_ms: u64) -> Result<(), JoinError> {
        let now_ms = self.now_ms();
        if theirs_ms.abs_diff(now_ms) <= self.0.settings.max_skew_ms {
            return Ok(());
        }
        Err(JoinError::ClockSkew {
            host: Time::from_millis(theirs_ms),
            coordinator: Time::from_millis(now_ms),
        })
    }

    /// Reads the token's record and checks the secret.
    pub(super) async fn present(&self, token: &JoinToken, role: Role) -> Result<Presented, JoinError> {
        let entry = self.0.store.get(&keys::token(&token.id)).await?;
        let checked = match entry {
            None => Err(Refusal::Unknown),
            Some(entry) => decode::<TokenRecord>(&entry)
                .ok_or(Refusal::Unknown)
                .and_then(|record| {
                    record.authenticate(token, &self.0.pepper)?;
                    if token.role != role {
                        return Err(Refusal::WrongRole);
                    }
                    Ok((record, entry.rv))
                }),
        };
        match checked {
            Ok((record, rv)) => Ok(Presented {
                token: token.clone(),
                record,
                rv,
            }),
            Err(refusal) => Err(self.refuse(&token.id, refusal)),
        }
    }

    /// Counts and logs a refusal. Only these are limited: a flood of them keeps no valid token out.
    pub(super) fn refuse(&self, id: &str, refusal: Refusal) -> JoinError {
        if self.0.refusals.take(self.now_ms()) {
            tracing::warn!(token = id, reason = ?refusal, "join refused");
            JoinError::Refused
        } else {
            JoinError::TooMany(self.0.settings.refusal_refill_ms)
        }
    }

    async fn plan_join(&self, presented: Presented, host: &Host<'_>) -> Result<Plan, JoinError> {
        let (key, asked) = (&host.key, host.name);
        let now_ms = self.now_ms();
        // The last one: a key whose node was deleted may have joined again.
        if let Some(joined) = presented.record.joined.iter().rev().find(|j| j.key == key.hash) {
            let node = joined.node.clone();
            let cert = self.cert_record(&node).await?;
            if let Some((rv, record)) = cert
                && self.0.store.get(&keys::tombstone(&node)).await?.is_none()
                && repeatable(&record, key)
                && now_ms / 1000 <= record.not_after
            {
                let (change, issued) = self.issue_again(&node, rv, record, key, now_ms)?;
                return Ok(Plan {
                    changes: vec![change],
                    node,
                    issued,
                });
            }
        }
        if let Err(refusal) = presented.record.admits_one_more(now_ms) {
            return Err(self.refuse(&presented.token.id, refusal));
        }
        if !presented.record.node.is_empty() && presented.record.node != asked {
            return Err(JoinError::OtherNode {
                wanted: presented.record.node,
                asked: asked.to_owned(),
            });
        }
        let object = keys::object(Kind::Node, "", asked);
        let present = self.0.store.get(&object).await?;
        let exists = present.is_some();
        let tombstone = self.0.store.get(&keys::tombstone(asked)).await?;
        let mut changes = Vec::with_capacity(6);
        let again = exists && presented.record.node == asked;
        let mut relabelling = None;
        let issued = match (exists, self.cert_record(asked).await?) {
            // The key joined before with another token and never got, or lost, the answer.
            (true, Some((rv, record))) if repeatable(&record, key) => {
                let (change, issued) = self.issue_again(asked, rv, record, key, now_ms)?;
                changes.push(change);
                issued
            }
            (true, _) if !again => return Err(JoinError::NameTaken(asked.to_owned())),
            (false, Some((_, record))) if record.revoked.is_none() && tombstone.is_none() => {
                return Err(JoinError::NameTaken(asked.to_owned()));
            }
            (_, cert) => {
                if let Some(other) = self.0.view.clash_of_machine(asked, host.machine, host.shared) {
                    let asked = asked.to_owned();
                    return Err(JoinError::SameMachine { other, asked });
                }
                // The name is this host's from now on; what the one before it holds opens nothing.
                changes.extend(tombstone.map(|t| Change::delete(t.key, Expect::At(t.rv))));
                let generation = match &cert {
                    Some((_, before)) => before.generation + 1,
                    None => u64::from(exists),
                };
                changes.push(vacancy(asked, generation));
                let leaf = self.issue(key, asked, now_ms)?;
                let record = CertRecord {
                    active: leaf.serial.clone(),
                    active_key: key.hash.clone(),
                    enrol_key: key.hash.clone(),
                    not_after: leaf.not_after,
                    generation,
                    machine: host.machine.to_owned(),
                    shared_host: host.shared,
                    ..CertRecord::default()
                };
                changes.push(match present {
                    // Written in any case, so that its deletion at this moment is a conflict.
                    Some(entry) => {
                        let (value, labels) = relabelled(&entry, &host.labels)?;
                        relabelling = labels;
                        Change::put(object, Expect::At(entry.rv), value)
                    }
                    None => {
                        let node = new_node(host, &presented.record, now_ms);
                        Change::put(object, Expect::Absent, encode(&node))
                    }
                });
                let expect = cert.map_or(Expect::Absent, |(rv, _)| Expect::At(rv));
                changes.push(record.change(asked, expect));
                self.0.issuer.issued(&leaf)
            }
        };
        let token = format!("tokens/{}", presented.token.id);
        changes.push(presented.used_by(asked, key));
        let audit = AuditRecord::new(
            now_ms,
            token,
            "join",
            format!("nodes/{asked}"),
            if again {
                "with a new identity; the old one is revoked"
            } else {
                ""
            },
        );
        let audit = match relabelling {
            Some([before, after]) => audit.about(Some(before), Some(after)),
            None => audit,
        };
        changes.push(audit.change());
        Ok(Plan {
            changes,
            node: asked.to_owned(),
            issued,
        })
    }

    /// Another certificate for the key that enrolled; the first one stays valid until this one is used.
    fn issue_again(
        &self,
        node: &str,
        rv: Rv,
        mut record: CertRecord,
        key: &PublicKey,
        now_ms: u64,
    ) -> Result<(Change, wire::Issued), JoinError> {
        let leaf = self.issue(key, node, now_ms)?;
        record.pending = Some(leaf.serial.clone());
        record.pending_key.clone_from(&key.hash);
        record.not_after = leaf.not_after;
        Ok((record.change(node, Expect::At(rv)), self.0.issuer.issued(&leaf)))
    }

    fn issue(&self, key: &PublicKey, node: &str, now_ms: u64) -> Result<super::issue::Leaf, JoinError> {
        self.0
            .issuer
            .issue(key, Role::Agent, node, self.0.settings.agent_life_ms, now_ms)
            .map_err(|e| JoinError::Unavailable(e.to_string()))
    }

    pub(super) async fn cert_record(&self, node: &str) -> Result<Option<(Rv, CertRecord)>, ReadError> {
        let key = keys::cert(node);
        match self.0.store.get(&key).await? {
            None => Ok(None),
            Some(entry) => match decode(&entry) {
                Some(record) => Ok(Some((entry.rv, record))),
                None => Err(ReadError::Io(format!("{key} does not decode"))),
            },
        }
    }
}

/// Nobody holds the name's identity, until the first agent of the new one says Hello.
fn vacancy(node: &str, generation: u64) -> Change {
    if generation == 0 {
        // Never given before.
        return Change::delete(keys::holder(node), Expect::Any);
    }
    let vacant = HolderRecord::vacant(generation, true);
    Change::put(keys::holder(node), Expect::Any, encode(&vacant))
}

/// The enrolment of this key may be answered again: it is the key on record, and nobody used a later one.
fn repeatable(record: &CertRecord, key: &PublicKey) -> bool {
    record.revoked.is_none() && !record.renewed && record.enrol_key == key.hash
}

/// The stored node with the labels that are ours as its present host has them; and those of before and after, where
/// they differ.
fn relabelled(entry: &Entry, own: &Labels) -> Result<(Bytes, Option<[Value; 2]>), ReadError> {
    let unreadable = || ReadError::Io(format!("{} does not decode", entry.key));
    let mut node: Node = decode(entry).ok_or_else(unreadable)?;
    let before = node.metadata.labels.clone();
    labels::renew(&mut node.metadata.labels, own);
    let after = &node.metadata.labels;
    if before == *after {
        return Ok((entry.value.clone(), None));
    }
    let labels = [json!(before), json!(after)];
    Ok((encode(&node).into(), Some(labels)))
}

fn new_node(host: &Host<'_>, token: &TokenRecord, now_ms: u64) -> Node {
    let mut labels = token.labels.clone();
    labels::renew(&mut labels, &host.labels);
    Node {
        metadata: ObjectMeta {
            name: host.name.to_owned(),
            uid: uuid::Uuid::new_v4().to_string(),
            creation_timestamp: Some(Time::from_millis(now_ms)),
            labels,
            ..ObjectMeta::default()
        },
        ..Node::default()
    }
}

pub(super) fn decode<T: for<'a> serde::Deserialize<'a>>(entry: &Entry) -> Option<T> {
    serde_json::from_slice(&entry.value)
        .inspect_err(|error| tracing::error!(key = entry.key, %error, "record does not decode"))
        .ok()
}
