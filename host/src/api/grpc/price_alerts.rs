//! `alert.AlertService`: GoStocks' own service, wire-compatible.

use tocsin_proto::alert::alert_service_server::AlertService;
use tocsin_proto::alert::{CreateAlertRequest, CreateAlertResponse, GetAlertsRequest, GetAlertsResponse};
use tonic::{Request, Response, Status};

use super::status::status;
use super::{from_proto, to_proto};
use crate::api::Api;

pub(super) struct Service(pub(super) Api);

#[tonic::async_trait]
impl AlertService for Service {
    async fn create_alert(
        &self,
        request: Request<CreateAlertRequest>,
    ) -> Result<Response<CreateAlertResponse>, Status> {
        let asked = from_proto::create_price_alert(request.into_inner());
        let alert = self.0.control.create_price_alert(&self.0.tenant, asked).await.map_err(status)?;
        self.0.note_unserved(&alert);
        Ok(Response::new(to_proto::price_alert_created(&alert).map_err(status)?))
    }

    async fn get_alerts(&self, request: Request<GetAlertsRequest>) -> Result<Response<GetAlertsResponse>, Status> {
        let request = request.into_inner();
        let user = from_proto::price_alerts_user(&request).map_err(status)?;
        let alerts = self.0.control.price_alerts(&self.0.tenant, user, request.active_only).await.map_err(status)?;
        let alerts = alerts.iter().filter_map(to_proto::price_alert).collect::<Result<_, _>>().map_err(status)?;
        Ok(Response::new(GetAlertsResponse { alerts }))
    }
}
