//! `tocsin.v1.RuleService`.

use tocsin_proto::tocsin::v1::rule_service_server::RuleService;
use tocsin_proto::tocsin::v1::{
    CancelPromotionRequest, CancelPromotionResponse, GetRuleRequest, ListRulesRequest, ListRulesResponse,
    PromoteRuleRequest, PromoteRuleResponse, Rule, UploadRuleRequest, UploadRuleResponse,
};
use tocsin_store::Moved;
use tonic::{Request, Response, Status};

use super::status::{list_status, status};
use super::{from_proto, to_proto};
use crate::api::Api;
use crate::control::PromoteRule;

pub(super) struct Service(pub(super) Api);

#[tonic::async_trait]
impl RuleService for Service {
    async fn upload_rule(&self, request: Request<UploadRuleRequest>) -> Result<Response<UploadRuleResponse>, Status> {
        let module = request.into_inner().module;
        let upload = self.0.control.upload_rule(&self.0.tenant, module).await.map_err(status)?;
        let rule = to_proto::rule(&upload.rule).map_err(status)?;
        Ok(Response::new(UploadRuleResponse { rule: Some(rule), created: upload.created }))
    }

    async fn get_rule(&self, request: Request<GetRuleRequest>) -> Result<Response<Rule>, Status> {
        let request = request.into_inner();
        let version = from_proto::given(request.version);
        let rule = self.0.control.rule(&self.0.tenant, &request.name, version.as_deref()).await.map_err(status)?;
        Ok(Response::new(to_proto::rule(&rule).map_err(status)?))
    }

    async fn list_rules(&self, request: Request<ListRulesRequest>) -> Result<Response<ListRulesResponse>, Status> {
        let request = request.into_inner();
        let limit = from_proto::page_size(request.page_size);
        let page = self.0.control.rules(&self.0.tenant, Some(&request.page_token), limit).await.map_err(list_status)?;
        let rules = page.items.iter().map(to_proto::rule).collect::<Result<_, _>>().map_err(status)?;
        Ok(Response::new(ListRulesResponse { rules, next_page_token: page.next.unwrap_or_default() }))
    }

    async fn promote_rule(
        &self,
        request: Request<PromoteRuleRequest>,
    ) -> Result<Response<PromoteRuleResponse>, Status> {
        let PromoteRuleRequest { name, version, from, reset_state } = request.into_inner();
        let request = PromoteRule { name, version, from: from_proto::given(from), reset_state };
        let Moved { alerts, bindings } =
            self.0.control.promote_rule(&self.0.tenant, request).await.map_err(status)?.moved;
        Ok(Response::new(PromoteRuleResponse { alerts, bindings }))
    }

    async fn cancel_promotion(
        &self,
        request: Request<CancelPromotionRequest>,
    ) -> Result<Response<CancelPromotionResponse>, Status> {
        let CancelPromotionRequest { name, version } = request.into_inner();
        let cancelled = self.0.control.cancel_promotion(&self.0.tenant, &name, &version).await.map_err(status)?;
        Ok(Response::new(CancelPromotionResponse { given_back: cancelled.given_back }))
    }
}
