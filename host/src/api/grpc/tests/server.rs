//! What every gRPC server has: reflection, health, limits, an end.

use tocsin_proto::tocsin::v1::{CreateAlertRequest, UploadRuleRequest};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha;

use super::Server;
use crate::api::grpc::health::{self, SERVICES};
use crate::api::grpc::{GRACE, MAX_REQUEST_BYTES, MAX_UPLOAD_BYTES};

const OWN: [&str; 4] =
    ["alert.AlertService", "tocsin.v1.AlertService", "tocsin.v1.RuleService", "grpc.health.v1.Health"];

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let server = Server::start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(OWN.iter().all(|own| names.iter().any(|name| name == own)), "{names:?}");

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "alert.CreateAlertRequest".into(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    use v1alpha::server_reflection_response::MessageResponse as Alpha;
    assert!(matches!(answer.message_response, Some(Alpha::FileDescriptorResponse(_))), "{answer:?}");
}

#[tokio::test]
async fn all_services_are_healthy_while_the_process_is_ready() {
    let server = Server::start().await;
    let mut client = HealthClient::new(server.channel.clone());
    for service in SERVICES {
        // The first look at readiness may still be under way.
        let mut watch = client.watch(check(service)).await.unwrap().into_inner();
        while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
        assert_eq!(client.check(check(service)).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    assert_eq!(client.check(check("no.Such")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn health_follows_readiness_and_ends_with_the_stop() {
    let server = Server::start().await;
    let (reporter, _service) = tonic_health::server::health_reporter();
    let service = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
    let status = async || {
        use tonic_health::pb::health_server::Health as _;
        service.check(tonic::Request::new(check("alert.AlertService"))).await.unwrap().into_inner().status()
    };
    health::publish(&reporter, server.backends.api.status.health.report().await.ready).await;
    assert_eq!(status().await, ServingStatus::Serving);
    server.backends.api.status.health.component("evaluate").fail("evaluation has stopped");
    health::publish(&reporter, server.backends.api.status.health.report().await.ready).await;
    assert_eq!(status().await, ServingStatus::NotServing);

    let stopped = CancellationToken::new();
    stopped.cancel();
    health::publish(&reporter, true).await;
    health::watch(&server.backends.api.status.health, &reporter, &stopped).await;
    assert_eq!(status().await, ServingStatus::NotServing);
}

#[tokio::test]
async fn a_request_past_the_limit_is_refused_and_the_connection_lives() {
    let server = Server::start().await;
    let request = UploadRuleRequest { module: vec![0; MAX_UPLOAD_BYTES + 1] };
    let status = server.rules().upload_rule(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let request = CreateAlertRequest { rule: "x".repeat(MAX_REQUEST_BYTES), ..Default::default() };
    let status = server.alerts().create_alert(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    let status = server.alerts().create_alert(CreateAlertRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

#[tokio::test]
async fn a_client_that_holds_a_stream_open_does_not_hold_up_the_end() {
    let server = Server::start().await;
    let mut client = HealthClient::new(server.channel.clone());
    let mut watch = client.watch(check("")).await.unwrap().into_inner();
    watch.message().await.unwrap();
    server.stop.cancel();
    tokio::time::timeout(GRACE * 6, server.served).await.expect("the server ends").unwrap();
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err(), "the port is closed");
}
