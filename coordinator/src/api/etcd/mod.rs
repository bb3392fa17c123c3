//! AddMember, UpdateMember, RemoveMember, Defrag: the members of etcd. Mounted by the listener.
//!
//! | file | what it is |
//! |---|---|
//! | this | authorization, the record, and the act |
//! | [`admin`] | what a store's members are, and the trait by which they are asked and changed |
//! | `decide` | whether and how: pure |
//! | [`promote`] | gives newcomers their vote |
//!
//! Invariant: one change of the members at a time, decided on how they are then; its record is committed first, under the
//! leadership's fence, so that a deposed coordinator changes no member. The one exception is a store without room, whose
//! remedy is one of these calls: there the record follows the change.

pub mod admin;
pub(in crate::api) mod decide;
#[cfg(test)]
pub(in crate::api) mod decide_tests;
pub mod promote;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use proto::wire::{
    self, AddMemberReply, AddMemberRequest, DefragReply, DefragRequest, MemberReply, RemoveMemberRequest,
    UpdateMemberRequest, defrag_reply::Done,
};
use tokio::sync::Mutex;
use tonic::{Extensions, Request, Response, Status, metadata::MetadataMap};

use self::{
    admin::{AdminError, Member, StoreAdmin, StoreStatus},
    decide::Adding,
};
use super::{Api, errors::ApiError, write::now_ms};
use crate::{
    ca::{
        audit::{self, AuditRecord},
        authorizer::Attributes,
    },
    store::{CommitError, Fence},
};

pub struct EtcdService {
    pub(super) members: Arc<Members>,
}

/// The members, and the right to change them. Shared by the service and by [`promote`].
pub struct Members {
    pub(super) api: Arc<Api>,
    pub(super) admin: Arc<dyn StoreAdmin>,
    /// Taken from the look to the end of the change: two changes, each of which may be, might not be together.
    one_by_one: Mutex<()>,
}

/// Who asks for a change, and why.
struct Asked {
    caller: String,
    reason: String,
    fence: Arc<Fence>,
}

impl Members {
    pub fn new(api: Arc<Api>, admin: Arc<dyn StoreAdmin>) -> Arc<Self> {
        Arc::new(Self {
            api,
            admin,
            one_by_one: Mutex::default(),
        })
    }

    fn asked(&self, extensions: &Extensions, metadata: &MetadataMap, action: &Attributes<'_>) -> Result<Asked, Status> {
        Ok(Asked {
            caller: self.api.admit(extensions, action)?,
            reason: audit::reason(metadata)?,
            fence: self.api.active()?,
        })
    }

    /// Puts a change on record, makes it, and puts on record where it failed.
    async fn change<T>(
        &self,
        asked: &Asked,
        verb: &str,
        object: &str,
        detail: &str,
        act: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, ApiError> {
        let record = |verb: &str, detail: &str| {
            AuditRecord::new(now_ms(), &asked.caller, verb, object, detail).because(&asked.reason)
        };
        // Where the store has no room for it yet, it follows the change.
        let owed = match self.commit(asked, &record(verb, detail)).await {
            Ok(()) => None,
            Err(CommitError::Full(_)) => Some(record(verb, detail)),
            Err(e) => return Err(e.into()),
        };
        let result = act.await;
        let late = match &result {
            Ok(_) => owed,
            Err(e) => Some(record(&format!("{verb}-failed"), &e.to_string())),
        };
        if let Some(late) = late
            && let Err(e) = self.commit(asked, &late).await
        {
            tracing::error!(
                caller = asked.caller,
                verb = late.verb,
                object,
                detail = late.detail,
                "a change of etcd's members is not on record: {e}"
            );
        }
        result.map_err(|e| failed(object, e))
    }

    async fn commit(&self, asked: &Asked, record: &AuditRecord) -> Result<(), CommitError> {
        let changes = vec![record.change()];
        self.api.hub.commit_under(&asked.fence, changes).await.map(drop)
    }
}

fn failed(object: &str, e: AdminError) -> ApiError {
    match e {
        AdminError::Refused(why) => ApiError::Precondition(format!("{object}: etcd refused: {why}")),
        AdminError::Unknown(why) => ApiError::NotInTime(format!(
            "{object}: {why}; whether it was done is unknown: look with wharf cluster members before you repeat it"
        )),
    }
}

/// As audit records and refusals name a member.
fn object(label: &str) -> String {
    format!("members/{label}")
}

fn action<'a>(verb: &'a str, subresource: &'a str, name: &'a str) -> Attributes<'a> {
    Attributes {
        verb,
        resource: "cluster",
        subresource,
        name,
        ..Attributes::default()
    }
}

#[async_trait]
impl wire::etcd_server::Etcd for EtcdService {
    async fn add_member(&self, request: Request<AddMemberRequest>) -> Result<Response<AddMemberReply>, Status> {
        let message = request.get_ref();
        let what = action("create", "members", &message.name);
        let asked = self.members.asked(request.extensions(), request.metadata(), &what)?;
        Ok(Response::new(self.members.add(&asked, message).await?))
    }

    async fn update_member(&self, request: Request<UpdateMemberRequest>) -> Result<Response<MemberReply>, Status> {
        let message = request.get_ref();
        let what = action("update", "members", &message.member);
        let asked = self.members.asked(request.extensions(), request.metadata(), &what)?;
        Ok(Response::new(self.members.update(&asked, message).await?))
    }

    async fn remove_member(&self, request: Request<RemoveMemberRequest>) -> Result<Response<MemberReply>, Status> {
        let message = request.get_ref();
        let what = action("delete", "members", &message.member);
        let asked = self.members.asked(request.extensions(), request.metadata(), &what)?;
        Ok(Response::new(self.members.remove(&asked, message).await?))
    }

    async fn defrag(&self, request: Request<DefragRequest>) -> Result<Response<DefragReply>, Status> {
        let message = request.get_ref();
        let what = action("update", "defrag", "");
        let asked = self.members.asked(request.extensions(), request.metadata(), &what)?;
        Ok(Response::new(self.members.defrag(&asked, message).await?))
    }
}

impl Members {
    async fn add(&self, asked: &Asked, message: &AddMemberRequest) -> Result<AddMemberReply, ApiError> {
        let _turn = self.one_by_one.lock().await;
        let status = self.admin.status().await;
        let (name, urls) = (&message.name, &message.peer_urls);
        let adding = decide::may_add(&status, name, urls)?;
        let environment = decide::environment(&status.members, name, urls);
        let (id, learner, warnings) = match adding {
            Adding::Again(id) => {
                let known = status.members.iter().find(|m| m.id == id);
                return Ok(AddMemberReply {
                    member: known.map(to_wire),
                    environment,
                    changed: false,
                    warnings: Vec::new(),
                });
            }
            Adding::New { learner, warnings } if message.dry_run => (0, learner, warnings),
            Adding::New { learner, warnings } => {
                let detail = format!("at {}{}", urls.join(","), if learner { ", as a learner" } else { "" });
                let act = self.admin.add_member(urls, learner);
                (
                    self.change(asked, "add", &object(name), &detail, act).await?,
                    learner,
                    warnings,
                )
            }
        };
        let member = Member {
            id,
            name: name.clone(),
            peer_urls: urls.clone(),
            client_urls: Vec::new(),
            learner,
            alarms: Vec::new(),
            answer: Err("has not started yet".into()),
        };
        Ok(AddMemberReply {
            member: Some(to_wire(&member)),
            environment,
            changed: true,
            warnings,
        })
    }

    async fn update(&self, asked: &Asked, message: &UpdateMemberRequest) -> Result<MemberReply, ApiError> {
        let _turn = self.one_by_one.lock().await;
        let status = self.admin.status().await;
        let member = found(&status, &message.member)?;
        let urls = &message.peer_urls;
        let changed = decide::may_update(&status, member, urls)?;
        if changed && !message.dry_run {
            let detail = format!("from {} to {}", member.peer_urls.join(","), urls.join(","));
            let act = self.admin.update_member(member.id, urls);
            self.change(asked, "update", &object(&member.label()), &detail, act)
                .await?;
        }
        let after = Member {
            peer_urls: urls.clone(),
            ..member.clone()
        };
        Ok(MemberReply {
            member: Some(to_wire(&after)),
            changed,
            warnings: Vec::new(),
        })
    }

    async fn remove(&self, asked: &Asked, message: &RemoveMemberRequest) -> Result<MemberReply, ApiError> {
        let _turn = self.one_by_one.lock().await;
        let status = self.admin.status().await;
        let member = found(&status, &message.member)?;
        let warnings = decide::may_remove(&status, member)?;
        if !message.dry_run {
            let detail = format!("{}, at {}", member.hex(), member.peer_urls.join(","));
            let act = self.admin.remove_member(member.id);
            self.change(asked, "remove", &object(&member.label()), &detail, act)
                .await?;
        }
        Ok(MemberReply {
            member: Some(to_wire(member)),
            changed: true,
            warnings,
        })
    }

    async fn defrag(&self, asked: &Asked, message: &DefragRequest) -> Result<DefragReply, ApiError> {
        let _turn = self.one_by_one.lock().await;
        let order = decide::defrag_order(&self.admin.status().await, &message.members)?;
        let (mut done, mut failed) = (Vec::new(), None::<String>);
        for one in order {
            let mut problem = one.problem.clone();
            if let (None, Some(first)) = (&problem, &failed) {
                // Whether that one answers again is not known, and a second one might cost the majority.
                problem = Some(format!("not begun, since {first} failed"));
            }
            let mut after = one.before;
            if problem.is_none() && !message.dry_run {
                let act = self.admin.defrag(one.id);
                match self.change(asked, "defrag", &object(&one.name), "", act).await {
                    Ok(()) => after = self.size(one.id).await.unwrap_or(one.before),
                    // The record could not be made, and nothing was done at all.
                    Err(e @ ApiError::Commit(_)) if done.is_empty() => return Err(e),
                    Err(e) => {
                        failed = Some(one.name.clone());
                        problem = Some(e.to_string());
                    }
                }
            }
            let sizes = if message.dry_run { (0, 0) } else { (one.before, after) };
            done.push(Done {
                name: one.name,
                before: sizes.0,
                after: sizes.1,
                problem: problem.unwrap_or_default(),
            });
        }
        Ok(DefragReply { members: done })
    }

    async fn size(&self, id: u64) -> Option<u64> {
        let status = self.admin.status().await;
        let member = status.members.iter().find(|m| m.id == id)?;
        Some(member.answer.as_ref().ok()?.size)
    }
}

fn found<'a>(status: &'a StoreStatus, text: &str) -> Result<&'a Member, ApiError> {
    if status.kind != admin::StoreKind::Etcd {
        return Err(ApiError::Precondition(admin::NO_MEMBERS.into()));
    }
    decide::find(&status.members, text)
}

pub(super) fn to_wire(member: &Member) -> wire::Member {
    let (answer, problem) = match &member.answer {
        Ok(answer) => (answer.clone(), String::new()),
        Err(why) => (admin::Answer::default(), why.clone()),
    };
    wire::Member {
        id: member.hex(),
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        reachable: member.answers(),
        leader: answer.leader,
        learner: member.learner,
        version: answer.version,
        size: answer.size,
        in_use: answer.in_use,
        alarms: member.alarms.clone(),
        problem,
    }
}
