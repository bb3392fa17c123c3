//! The fake coordinator's join tokens.

use proto::wire::{self, tokens_server::Tokens};
use tonic::{Request, Response, Status};

use super::{Fake, NOW};

#[tonic::async_trait]
impl Tokens for Fake {
    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenReply>, Status> {
        let r = request.into_inner();
        let dry = if r.dry_run { " dry" } else { "" };
        self.begin(format!("token {} {} {:?}{dry}", r.uses, r.ttl_seconds, r.labels))
            .await?;
        Ok(Response::new(wire::CreateTokenReply {
            token: Some(wire::Token {
                id: "k7x2p9".into(),
                role: r.role,
                max_uses: r.uses,
                created_at: NOW as u64,
                expires_at: NOW as u64 + r.ttl_seconds,
                labels: r.labels,
                node: r.node,
                ..wire::Token::default()
            }),
            text: if r.dry_run {
                String::new()
            } else {
                "wharf1.agent.k7x2p9.s-e_c.r.00000000".into()
            },
            coordinators: vec!["10.0.0.1:7443".into(), "10.0.0.2:7443".into()],
            enrol: Vec::new(),
        }))
    }

    async fn list_tokens(
        &self,
        _: Request<wire::ListTokensRequest>,
    ) -> Result<Response<wire::ListTokensReply>, Status> {
        self.begin("tokens".into()).await?;
        let token = wire::Token {
            id: "k7x2p9".into(),
            role: "agent".into(),
            max_uses: 1,
            expires_at: NOW as u64 + 600,
            ..wire::Token::default()
        };
        Ok(Response::new(wire::ListTokensReply { tokens: vec![token] }))
    }

    async fn revoke_token(&self, request: Request<wire::RevokeTokenRequest>) -> Result<Response<wire::Token>, Status> {
        let wire::RevokeTokenRequest { id, dry_run } = request.into_inner();
        self.begin(format!("revoke {id} {dry_run}")).await?;
        if id != "k7x2p9" {
            return Err(Status::not_found(format!("tokens {id:?} not found")));
        }
        Ok(Response::new(wire::Token::default()))
    }
}
