//! The server itself: health, metrics, and the only organization and location.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    app::State,
    auth::Access,
    body::{LocationsAnswer, Nothing, Organization, OrganizationsAnswer},
    error::{ApiError, ApiResult},
    executor::CallClass,
    metrics,
    openapi::{NotReady, Refused},
    request::{JsonResult, Sender},
};

/// Returns 200 while the server runs.
#[utoipa::path(
    get, path = "/health", tag = "server", operation_id = "health", security(()),
    responses((status = 200, description = "The server runs", body = Nothing)),
)]
pub(super) async fn health() -> Json<Nothing> {
    Json(Nothing {})
}

/// Checks that the server can handle requests: its catalog is readable, and it is not overloaded.
#[utoipa::path(
    get, path = "/ready", tag = "server", operation_id = "ready", security(()),
    responses((status = 200, description = "The server is ready", body = Nothing), NotReady),
)]
pub(super) async fn ready(state: State) -> JsonResult<Nothing> {
    let plane = state.plane.clone();
    let list = move |_| Ok(plane.list_groups().map(|_| Json(Nothing {}))?);
    state.executor.run(CallClass::Catalog, list).await
}

/// Returns the metrics of the server for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "server", operation_id = "metrics",
    responses((status = 200, description = "The metrics", body = String, content_type = metrics::CONTENT_TYPE), Refused),
)]
pub(super) async fn metrics(state: State, sender: Sender) -> ApiResult<Response> {
    sender.run(CallClass::Catalog, |context| context.caller.require(Access::ReadOnly)).await?;
    let (calls, connections) = (state.executor.counts(), &*state.connections);
    let text = state.metrics.encode(calls, connections, state.maintainer.as_deref()).map_err(|error| {
        let message = format!("encoding metrics: {error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Lists the only organization.
#[utoipa::path(
    get, path = "/v1/organizations", tag = "server", operation_id = "listOrganizations",
    responses((status = 200, description = "The organization", body = OrganizationsAnswer), Refused),
)]
pub(super) async fn organizations(state: State, sender: Sender) -> JsonResult<OrganizationsAnswer> {
    sender.run(CallClass::Catalog, |context| context.caller.require(Access::ReadOnly)).await?;
    let slug = state.organization.clone().unwrap_or_else(|| "me".into());
    Ok(Json(OrganizationsAnswer {
        organizations: [Organization {
            name: slug.clone(),
            slug,
            r#type: "personal",
            overages: false,
            blocked_reads: false,
            blocked_writes: false,
        }],
    }))
}

/// Lists the only location.
#[utoipa::path(
    get, path = "/v1/locations", tag = "server", operation_id = "listLocations",
    responses((status = 200, description = "The location", body = LocationsAnswer), Refused),
)]
pub(super) async fn locations(sender: Sender) -> JsonResult<LocationsAnswer> {
    let locations = sender.run(CallClass::Catalog, |context| {
        Ok([(context.location.to_owned(), "where this server is")].into())
    });
    Ok(Json(LocationsAnswer { locations: locations.await? }))
}
