//! `tocsin.v1.AlertService`.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tocsin_proto::tocsin::v1::alert_service_server::AlertService;
use tocsin_proto::tocsin::v1::{
    Alert, CreateAlertRequest, DeleteAlertRequest, Firing, GetAlertRequest, ListAlertsRequest, ListAlertsResponse,
    ListFaultsRequest, ListFaultsResponse, ListFiringsRequest, ListFiringsResponse, ReleaseAlertRequest,
    WatchFiringsRequest,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::status::{list_status, status};
use super::{from_proto, to_proto, watch};
use crate::api::Api;
use crate::control::Recorded;

pub(super) struct Service {
    pub(super) api: Api,
    /// Ends watches.
    pub(super) stop: CancellationToken,
}

#[tonic::async_trait]
impl AlertService for Service {
    type WatchFiringsStream = BoxStream<'static, Result<Firing, Status>>;

    async fn create_alert(&self, request: Request<CreateAlertRequest>) -> Result<Response<Alert>, Status> {
        let asked = from_proto::create_alert(request.into_inner());
        let (alert, _) = self.api.control.create_alert(&self.api.tenant, asked).await.map_err(status)?;
        let unserved = self.api.note_unserved(&alert).iter().map(ToString::to_string).collect();
        Ok(Response::new(Alert { unserved, ..to_proto::alert(alert).map_err(status)? }))
    }

    async fn get_alert(&self, request: Request<GetAlertRequest>) -> Result<Response<Alert>, Status> {
        let id = from_proto::alert_id("id", request.into_inner().id).map_err(status)?;
        let alert = self.api.control.alert(&self.api.tenant, id).await.map_err(status)?;
        Ok(Response::new(to_proto::alert(alert).map_err(status)?))
    }

    async fn list_alerts(&self, request: Request<ListAlertsRequest>) -> Result<Response<ListAlertsResponse>, Status> {
        let query = from_proto::alert_query(request.into_inner());
        let page = self.api.control.alerts(&self.api.tenant, query).await.map_err(list_status)?;
        let alerts = page.items.into_iter().map(to_proto::alert).collect::<Result<_, _>>().map_err(status)?;
        Ok(Response::new(ListAlertsResponse { alerts, next_page_token: page.next.unwrap_or_default() }))
    }

    async fn delete_alert(&self, request: Request<DeleteAlertRequest>) -> Result<Response<()>, Status> {
        let id = from_proto::alert_id("id", request.into_inner().id).map_err(status)?;
        self.api.control.delete_alert(&self.api.tenant, id).await.map_err(status)?;
        Ok(Response::new(()))
    }

    async fn release_alert(&self, request: Request<ReleaseAlertRequest>) -> Result<Response<Alert>, Status> {
        let request = request.into_inner();
        let id = from_proto::alert_id("id", request.id).map_err(status)?;
        let symbol = from_proto::given(request.symbol);
        let released = self.api.control.release_alert(&self.api.tenant, id, symbol.as_deref());
        Ok(Response::new(to_proto::alert(released.await.map_err(status)?).map_err(status)?))
    }

    async fn list_faults(&self, request: Request<ListFaultsRequest>) -> Result<Response<ListFaultsResponse>, Status> {
        let request = request.into_inner();
        let alert = from_proto::alert_id("alert_id", request.alert_id).map_err(status)?;
        let limit = from_proto::page_size(request.page_size);
        let faults = self.api.control.faults(&self.api.tenant, alert, Some(&request.page_token), limit);
        let page = faults.await.map_err(list_status)?;
        let faults = page.items.into_iter().map(to_proto::fault).collect();
        Ok(Response::new(ListFaultsResponse { faults, next_page_token: page.next.unwrap_or_default() }))
    }

    async fn list_firings(
        &self,
        request: Request<ListFiringsRequest>,
    ) -> Result<Response<ListFiringsResponse>, Status> {
        let request = request.into_inner();
        let alert = from_proto::any_alert_id("alert_id", request.alert_id).map_err(status)?;
        let limit = from_proto::page_size(request.page_size);
        let firings = self.api.control.firings(&self.api.tenant, alert, Some(&request.page_token), limit);
        let page = firings.await.map_err(list_status)?;
        let firings = page.items.into_iter().map(to_proto::firing).collect();
        Ok(Response::new(ListFiringsResponse { firings, next_page_token: page.next.unwrap_or_default() }))
    }

    async fn watch_firings(
        &self,
        request: Request<WatchFiringsRequest>,
    ) -> Result<Response<Self::WatchFiringsStream>, Status> {
        let request = request.into_inner();
        let alert = from_proto::any_alert_id("alert_id", request.alert_id).map_err(status)?;
        let after = from_proto::given(request.after);
        let watch = self.api.control.watch_firings(&self.api.tenant, alert, after.as_deref());
        let (cursor, firings) = watch.await.map_err(status)?;
        let message = |recorded: Arc<Recorded>| to_proto::firing(recorded.firing.clone());
        let firings = firings.map(move |firing| firing.map(message).map_err(status));
        let firings = watch::unless_stalled(firings.take_until(self.stop.clone().cancelled_owned()));
        let mut response = Response::new(firings.boxed());
        let cursor = cursor.parse().expect("cursors are ASCII");
        response.metadata_mut().insert(watch::CURSOR_KEY, cursor);
        Ok(response)
    }
}
