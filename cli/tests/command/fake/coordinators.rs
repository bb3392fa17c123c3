//! The fake's coordinators: any can be removed but `c9`, which is not there.

use proto::wire::{self, coordinators_server::Coordinators};
use tonic::{Request, Response, Status};

use super::Fake;

#[tonic::async_trait]
impl Coordinators for Fake {
    async fn remove(
        &self,
        request: Request<wire::RemoveCoordinatorRequest>,
    ) -> Result<Response<wire::RemoveCoordinatorReply>, Status> {
        let wire::RemoveCoordinatorRequest { name, dry_run } = request.into_inner();
        let dry = if dry_run { " dry" } else { "" };
        self.begin(format!("remove-coordinator {name}{dry}")).await?;
        if name == "c9" {
            return Err(Status::not_found("coordinators \"c9\" not found"));
        }
        Ok(Response::new(wire::RemoveCoordinatorReply {}))
    }
}
