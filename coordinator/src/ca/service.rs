//! The gRPC faces of the ca: `Enrol` (enrolment port; for coordinators on the session port, too), `Tokens` and
//! `Coordinators` (session port, behind [`super::layer`]).
//!
//! Invariant: nothing is decided here; messages are taken apart and put together.

use proto::{
    token::JoinToken,
    wire::{self, coordinators_server, enrol_server, tokens_server},
};
use tonic::{Request, Response, Status};

use super::{
    Authority,
    audit::{self, AuditRecord},
    authorizer::Attributes,
    certs::Caller,
    enrol::{decode, not_active},
    tokens::{self, TokenRecord, TokenSpec, TokenSpecError},
};
use crate::store::{CommitError, Entry, Expect, Fence, Rv, keys};

/// Largest enrolment message: a token, a request and names.
const MAX_ENROL_BYTES: usize = 32 << 10;

/// `Enrol`, for the enrolment port; on the session port [`super::layer`] lets coordinators only through to it.
#[derive(Clone)]
pub struct EnrolService(pub Authority);

impl EnrolService {
    pub fn into_server(self) -> enrol_server::EnrolServer<Self> {
        enrol_server::EnrolServer::new(self).max_decoding_message_size(MAX_ENROL_BYTES)
    }
}

#[tonic::async_trait]
impl enrol_server::Enrol for EnrolService {
    async fn enrol(&self, request: Request<wire::EnrolRequest>) -> Result<Response<wire::EnrolReply>, Status> {
        Ok(Response::new(self.0.enrol(request.get_ref()).await?))
    }

    async fn join_coordinator(
        &self,
        request: Request<wire::JoinCoordinatorRequest>,
    ) -> Result<Response<wire::JoinCoordinatorReply>, Status> {
        Ok(Response::new(self.0.join_coordinator(request.get_ref()).await?))
    }
}

/// `Coordinators`, for the session port behind the authorization layer.
#[derive(Clone)]
pub struct CoordinatorsService(pub Authority);

#[tonic::async_trait]
impl coordinators_server::Coordinators for CoordinatorsService {
    async fn remove(
        &self,
        request: Request<wire::RemoveCoordinatorRequest>,
    ) -> Result<Response<wire::RemoveCoordinatorReply>, Status> {
        let caller = caller(&request)?;
        let wire::RemoveCoordinatorRequest { name, dry_run } = request.get_ref();
        let attributes = Attributes {
            verb: "delete",
            resource: "coordinators",
            name,
            ..Attributes::default()
        };
        self.0.authorize(&caller, &attributes)?;
        let reason = audit::reason(request.metadata())?;
        self.0.remove_coordinator(name, &caller, &reason, *dry_run).await?;
        Ok(Response::new(wire::RemoveCoordinatorReply {}))
    }
}

/// `Tokens`, for the session port behind the authorization layer.
#[derive(Clone)]
pub struct TokensService(pub Authority);

/// Who calls, as the layer established it; a request that did not pass the layer is denied.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("a client certificate is required"))
}

fn spec_status(error: TokenSpecError) -> Status {
    match error {
        TokenSpecError::Secret(_) => Status::unavailable(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}

fn commit_status(error: CommitError) -> Status {
    match error {
        CommitError::Conflict { .. } => Status::aborted("the token changed at the same moment; try again"),
        other => Status::unavailable(other.to_string()),
    }
}

#[tonic::async_trait]
impl tokens_server::Tokens for TokensService {
    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenReply>, Status> {
        let caller = caller(&request)?;
        self.authorize(&caller, "create", "", "")?;
        let spec = TokenSpec::from_request(request.get_ref()).map_err(spec_status)?;
        let (id, record, text) = if request.get_ref().dry_run {
            let (_, record) = self.0.new_token(&spec, &caller.to_string())?;
            (String::new(), record, String::new())
        } else {
            let reason = audit::reason(request.metadata())?;
            self.0.create_token(&spec, &caller.to_string(), &reason).await?
        };
        Ok(Response::new(wire::CreateTokenReply {
            token: Some(record.to_wire(&id)),
            text,
            coordinators: self.0.coordinators(),
            enrol: self.0.joining(),
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<wire::ListTokensRequest>,
    ) -> Result<Response<wire::ListTokensReply>, Status> {
        let caller = caller(&request)?;
        self.authorize(&caller, "list", "", "")?;
        let tokens = self.0.view().tokens();
        Ok(Response::new(wire::ListTokensReply {
            tokens: tokens.iter().map(|(id, _, record)| record.to_wire(id)).collect(),
        }))
    }

    async fn revoke_token(&self, request: Request<wire::RevokeTokenRequest>) -> Result<Response<wire::Token>, Status> {
        let caller = caller(&request)?;
        let wire::RevokeTokenRequest { id, dry_run } = request.get_ref();
        self.authorize(&caller, "update", "revoke", id)?;
        let record = if *dry_run {
            let (_, mut record) = self.0.token(id).await?;
            record.revoked = true;
            record
        } else {
            let reason = audit::reason(request.metadata())?;
            self.0.revoke_token(id, &caller.to_string(), &reason).await?
        };
        Ok(Response::new(record.to_wire(id)))
    }
}

impl TokensService {
    fn authorize(&self, caller: &Caller, verb: &str, subresource: &str, name: &str) -> Result<(), Status> {
        Ok(self.0.authorize(
            caller,
            &Attributes {
                verb,
                resource: "tokens",
                subresource,
                namespace: "",
                name,
            },
        )?)
    }
}

impl Authority {
    /// Makes a token; answers (id, record, secret text). The text exists nowhere else.
    pub async fn create_token(
        &self,
        spec: &TokenSpec,
        creator: &str,
        reason: &str,
    ) -> Result<(String, TokenRecord, String), Status> {
        let fence = self.active()?;
        let (token, record) = self.new_token(spec, creator)?;
        let audit = AuditRecord::new(
            record.created_at_ms,
            creator,
            "create",
            format!("tokens/{}", token.id),
            format!("uses {}", record.max_uses),
        )
        .because(reason);
        self.commit(&fence, vec![record.change(&token.id, Expect::Absent), audit.change()])
            .await
            .map_err(commit_status)?;
        Ok((token.id.clone(), record, token.reveal()))
    }

    /// Revoking twice is no error.
    pub async fn revoke_token(&self, id: &str, who: &str, reason: &str) -> Result<TokenRecord, Status> {
        for _ in 0..self.0.settings.commit_attempts {
            let fence = self.active()?;
            let (rv, mut record) = self.token(id).await?;
            if record.revoked {
                return Ok(record);
            }
            record.revoked = true;
            let audit = AuditRecord::new(self.now_ms(), who, "revoke", format!("tokens/{id}"), "").because(reason);
            match self
                .commit(&fence, vec![record.change(id, Expect::At(rv)), audit.change()])
                .await
            {
                Ok(()) => return Ok(record),
                // A host joined with it at the same moment: read again, revoking must not lose.
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(commit_status(error)),
            }
        }
        Err(Status::unavailable("too many hosts join with this token; try again"))
    }

    /// A token of this description, not stored yet.
    fn new_token(&self, spec: &TokenSpec, creator: &str) -> Result<(JoinToken, TokenRecord), Status> {
        self.active()?;
        tokens::create(spec, creator, &self.0.pepper, self.0.root_spki, self.now_ms()).map_err(spec_status)
    }

    async fn token(&self, id: &str) -> Result<(Rv, TokenRecord), Status> {
        self.active()?;
        let entry: Option<Entry> = self
            .0
            .store
            .get(&keys::token(id))
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        entry
            .and_then(|e| Some((e.rv, decode::<TokenRecord>(&e)?)))
            .ok_or_else(|| {
                Status::not_found(format!(
                    "tokens {} not found; see wharf token list",
                    proto::model::labels::quoted(id)
                ))
            })
    }

    fn active(&self) -> Result<Fence, Status> {
        (self.0.fence)().ok_or_else(|| Status::unavailable(not_active()))
    }
}
