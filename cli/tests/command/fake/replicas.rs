//! The fake coordinator's replicas and members of etcd: as a test put them there.
//!
//! Invariant: as of the service's documentation, less the decisions about the majority, which the real one is tested for.

use proto::wire::{self, cluster_problem::Area, etcd_server::Etcd, replica::Role, replicas_server::Replicas};
use tonic::{Request, Response, Status};

use super::{Fake, NOW};

pub fn replica(name: &str, role: Role) -> wire::Replica {
    let standing = u64::from(matches!(role, Role::Active | Role::Standby));
    let mut replica = wire::Replica {
        name: name.into(),
        address: format!("{name}.example:7443"),
        enrol_address: format!("{name}.example:7444"),
        version: "1.2.3".into(),
        since: standing * (NOW as u64 - 10_800),
        resource_version: standing * (500 << 16),
        ..wire::Replica::default()
    };
    replica.set_role(role);
    replica
}

pub fn member(n: u64) -> wire::Member {
    wire::Member {
        id: format!("{:x}", 0xce2a_822c_ea30_bfc0 + n),
        name: format!("etcd{n}"),
        peer_urls: vec![format!("https://10.0.0.{n}:2380")],
        client_urls: vec![format!("https://10.0.0.{n}:2379")],
        reachable: true,
        leader: n == 1,
        version: "3.4.23".into(),
        size: 3 << 20,
        in_use: 1 << 20,
        ..wire::Member::default()
    }
}

pub fn problem(area: Area, object: &str, what: &str, remedy: &str) -> wire::ClusterProblem {
    wire::ClusterProblem {
        area: area.into(),
        object: object.into(),
        what: what.into(),
        remedy: remedy.into(),
    }
}

fn one() -> wire::ReplicasStatusReply {
    wire::ReplicasStatusReply {
        cluster_id: "0f8fad5b-d9cb-469f-a165-70867728950e".into(),
        answered_by: "c1".into(),
        leader: "c1".into(),
        term: 41,
        leads_since: NOW as u64 - 10_800,
        resource_version: 500 << 16,
        replicas: vec![wire::Replica {
            nodes_heard: 3,
            ..replica("c1", Role::Active)
        }],
        store: Some(wire::StoreStatus {
            kind: "sqlite".into(),
            ..wire::StoreStatus::default()
        }),
        ..wire::ReplicasStatusReply::default()
    }
}

/// Three coordinators on three members, all of them well.
pub fn three() -> wire::ReplicasStatusReply {
    wire::ReplicasStatusReply {
        took_over_because: "gone".into(),
        took_over_ms: 212,
        replicas: vec![
            replica("c1", Role::Active),
            wire::Replica {
                skew_ms: -3,
                resource_version: 498 << 16,
                ..replica("c2", Role::Standby)
            },
            replica("c3", Role::Standby),
        ],
        store: Some(wire::StoreStatus {
            kind: "etcd".into(),
            members: vec![member(1), member(2), member(3)],
            quota: 2 << 30,
            write_p50_us: 1_840,
            write_p99_us: 4_200,
            last_backup: NOW as u64 - 3600,
            backup_every_ms: 86_400_000,
            certificates: vec![wire::CertificateEnd {
                of: "etcd client".into(),
                expires: NOW as u64 + 3_000 * 86_400,
            }],
        }),
        ..one()
    }
}

impl Fake {
    fn members(&self) -> Vec<wire::Member> {
        let reply = self.state().replicas.clone();
        reply.and_then(|r| r.store).map(|s| s.members).unwrap_or_default()
    }

    fn found(&self, text: &str) -> Result<wire::Member, Status> {
        let found = self.members().into_iter().find(|m| m.name == text || m.id == text);
        found.ok_or_else(|| Status::not_found(format!("members {text:?} not found")))
    }
}

fn dry(dry_run: bool) -> &'static str {
    if dry_run { " dry" } else { "" }
}

#[tonic::async_trait]
impl Replicas for Fake {
    async fn status(
        &self,
        _: Request<wire::ReplicasStatusRequest>,
    ) -> Result<Response<wire::ReplicasStatusReply>, Status> {
        self.begin("replicas".into()).await?;
        if self.state().older {
            return Err(Status::unimplemented(""));
        }
        let reply = self.state().replicas.clone();
        Ok(Response::new(reply.unwrap_or_else(one)))
    }

    async fn transfer(&self, request: Request<wire::TransferRequest>) -> Result<Response<wire::TransferReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("transfer {:?}{}", r.to, dry(r.dry_run))).await?;
        let name = if r.to.is_empty() { "c3".to_owned() } else { r.to };
        Ok(Response::new(wire::TransferReply { name, term: 42 }))
    }
}

#[tonic::async_trait]
impl Etcd for Fake {
    async fn add_member(
        &self,
        request: Request<wire::AddMemberRequest>,
    ) -> Result<Response<wire::AddMemberReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("add {} {}{}", r.name, r.peer_urls.join(","), dry(r.dry_run)))
            .await?;
        let known = self.members().iter().any(|m| m.peer_urls == r.peer_urls);
        Ok(Response::new(wire::AddMemberReply {
            environment: format!("ETCD_NAME={}\nETCD_INITIAL_CLUSTER_STATE=existing\n", r.name),
            member: Some(wire::Member {
                id: "4fb1".into(),
                name: r.name,
                learner: true,
                ..wire::Member::default()
            }),
            changed: !known,
            warnings: self.state().warning.clone().into_iter().collect(),
        }))
    }

    async fn update_member(
        &self,
        request: Request<wire::UpdateMemberRequest>,
    ) -> Result<Response<wire::MemberReply>, Status> {
        let r = request.into_inner();
        self.begin(format!(
            "update {} {}{}",
            r.member,
            r.peer_urls.join(","),
            dry(r.dry_run)
        ))
        .await?;
        let member = self.found(&r.member)?;
        Ok(Response::new(wire::MemberReply {
            changed: member.peer_urls != r.peer_urls,
            member: Some(member),
            warnings: Vec::new(),
        }))
    }

    async fn remove_member(
        &self,
        request: Request<wire::RemoveMemberRequest>,
    ) -> Result<Response<wire::MemberReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("remove {}{}", r.member, dry(r.dry_run))).await?;
        Ok(Response::new(wire::MemberReply {
            changed: true,
            member: Some(self.found(&r.member)?),
            warnings: self.state().warning.clone().into_iter().collect(),
        }))
    }

    async fn defrag(&self, request: Request<wire::DefragRequest>) -> Result<Response<wire::DefragReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("defrag {:?}{}", r.members, dry(r.dry_run))).await?;
        Ok(Response::new(wire::DefragReply {
            members: self.state().defragmented.clone(),
        }))
    }
}
