//! The calls about the coordinators and the members of etcd.
//!
//! Invariant: as of [`super`].

use proto::wire::{self, etcd_client::EtcdClient, replicas_client::ReplicasClient};

use super::{Call, Client};
use crate::error::Error;

impl Client {
    pub async fn replicas_status(&mut self) -> Result<wire::ReplicasStatusReply, Error> {
        self.call(Call::Read, |channel| async move {
            ReplicasClient::new(channel)
                .status(wire::ReplicasStatusRequest {})
                .await
        })
        .await
    }

    pub async fn transfer(&mut self, request: &wire::TransferRequest) -> Result<wire::TransferReply, Error> {
        // A repeat would hand over a second time.
        self.call(Call::Once, |channel| {
            let request = request.clone();
            async move { ReplicasClient::new(channel).transfer(request).await }
        })
        .await
    }

    pub async fn add_member(&mut self, request: &wire::AddMemberRequest) -> Result<wire::AddMemberReply, Error> {
        // A repeat finds the newcomer and tells the same.
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { EtcdClient::new(channel).add_member(request).await }
        })
        .await
    }

    pub async fn update_member(&mut self, request: &wire::UpdateMemberRequest) -> Result<wire::MemberReply, Error> {
        self.call(Call::Write, |channel| {
            let request = request.clone();
            async move { EtcdClient::new(channel).update_member(request).await }
        })
        .await
    }

    pub async fn remove_member(&mut self, request: &wire::RemoveMemberRequest) -> Result<wire::MemberReply, Error> {
        // A repeat would say that there is none.
        self.call(Call::Once, |channel| {
            let request = request.clone();
            async move { EtcdClient::new(channel).remove_member(request).await }
        })
        .await
    }

    pub async fn defrag(&mut self, request: &wire::DefragRequest) -> Result<wire::DefragReply, Error> {
        self.call(Call::Once, |channel| {
            let request = request.clone();
            async move { EtcdClient::new(channel).defrag(request).await }
        })
        .await
    }
}
