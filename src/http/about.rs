//! The server itself: whether it runs, what it counts, and the one organization and location that there are.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    State,
    access::Access,
    body::{LocationsAnswer, Nothing, Organization, OrganizationsAnswer},
    metrics,
    openapi::{NotReady, Refused},
    refusal::{Answer, Refusal},
    request::Bearer,
    work::Load,
};

/// Tells that the server runs.
#[utoipa::path(
    get, path = "/health", tag = "server", operation_id = "health", security(()),
    responses((status = 200, description = "It does", body = Nothing)),
)]
pub(super) async fn health() -> Json<Nothing> {
    Json(Nothing {})
}

/// Tells whether the server can do something: whether its catalog answers, and it has not too much to do.
#[utoipa::path(
    get, path = "/ready", tag = "server", operation_id = "ready", security(()),
    responses((status = 200, description = "It can", body = Nothing), NotReady),
)]
pub(super) async fn ready(shared: State) -> Answer<Json<Nothing>> {
    let plane = shared.plane.clone();
    shared.work.run(Load::Quick, move |_| Ok(plane.list_groups().map(|_| Json(Nothing {}))?)).await
}

/// Tells the figures of the server, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "server", operation_id = "metrics",
    responses((status = 200, description = "Done", body = String, content_type = metrics::CONTENT_TYPE), Refused),
)]
pub(super) async fn metrics(shared: State, bearer: Bearer) -> Answer<Response> {
    shared.run(Load::Quick, bearer, |_, caller, _| caller.may(Access::ReadOnly)).await?;
    let figures = (shared.work.figures(), &*shared.connections, shared.maintainer.as_deref());
    let text = shared.metrics.text(figures.0, figures.1, figures.2).map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("writing figures: {error}"))
    })?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Lists the one organization.
#[utoipa::path(
    get, path = "/v1/organizations", tag = "server", operation_id = "listOrganizations",
    responses((status = 200, description = "Done", body = OrganizationsAnswer), Refused),
)]
pub(super) async fn organizations(shared: State, bearer: Bearer) -> Answer<Json<OrganizationsAnswer>> {
    let slug = shared.organization.clone().unwrap_or_else(|| "me".into());
    shared
        .run(Load::Quick, bearer, move |_, caller, _| {
            caller.may(Access::ReadOnly)?;
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
        })
        .await
}

/// Lists the one location.
#[utoipa::path(
    get, path = "/v1/locations", tag = "server", operation_id = "listLocations",
    responses((status = 200, description = "Done", body = LocationsAnswer), Refused),
)]
pub(super) async fn locations(shared: State, bearer: Bearer) -> Answer<Json<LocationsAnswer>> {
    let location = shared.location.clone();
    shared
        .run(Load::Quick, bearer, move |_, _, _| {
            Ok(Json(LocationsAnswer { locations: [(location, "where this server is")].into() }))
        })
        .await
}
