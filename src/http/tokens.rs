//! Minting and revoking tokens of databases and groups.

use std::sync::Arc;

use axum::Json;

use super::{
    Shared, State,
    access::{Access, Subject},
    body::{Nothing, TokenAnswer, TokenBody, TokenQuery},
    expiration,
    openapi::{Conflict, Missing, Refused},
    refusal::{Answer, Refusal},
    request::{Bearer, JsonBody, Parameters, Place},
};
use crate::ControlPlane;

/// Mints a token of a database.
#[utoipa::path(
    post, path = "/{name}/auth/tokens", tag = "databases", operation_id = "createDatabaseToken",
    params(TokenQuery),
    request_body = Option<TokenBody>,
    responses((status = 200, description = "Done", body = TokenAnswer), Refused, Missing, Conflict),
)]
pub(super) async fn mint_for_database(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    Parameters(query): Parameters<TokenQuery>,
    body: JsonBody,
) -> Answer<Json<TokenAnswer>> {
    mint(&shared, bearer, &organization, (query, body), move |plane| of_database(plane, &name)).await
}

/// Mints a token of a group, good for every database in it.
#[utoipa::path(
    post, path = "/{name}/auth/tokens", tag = "groups", operation_id = "createGroupToken",
    params(TokenQuery),
    request_body = Option<TokenBody>,
    responses((status = 200, description = "Done", body = TokenAnswer), Refused, Missing, Conflict),
)]
pub(super) async fn mint_for_group(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    Parameters(query): Parameters<TokenQuery>,
    body: JsonBody,
) -> Answer<Json<TokenAnswer>> {
    mint(&shared, bearer, &organization, (query, body), move |plane| of_group(plane, &name)).await
}

/// Revokes all tokens of a database.
#[utoipa::path(
    post, path = "/{name}/auth/rotate", tag = "databases", operation_id = "rotateDatabaseTokens",
    responses((status = 200, description = "Done", body = Nothing), Refused, Missing, Conflict),
)]
pub(super) async fn rotate_of_database(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<Nothing>> {
    rotate(&shared, bearer, &organization, move |plane| of_database(plane, &name)).await
}

/// Revokes all tokens of a group.
#[utoipa::path(
    post, path = "/{name}/auth/rotate", tag = "groups", operation_id = "rotateGroupTokens",
    responses((status = 200, description = "Done", body = Nothing), Refused, Missing, Conflict),
)]
pub(super) async fn rotate_of_group(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<Nothing>> {
    rotate(&shared, bearer, &organization, move |plane| of_group(plane, &name)).await
}

fn of_database(plane: &ControlPlane, name: &str) -> Answer<Subject> {
    Ok(Subject::Database(plane.get_database(name)?.id))
}

fn of_group(plane: &ControlPlane, name: &str) -> Answer<Subject> {
    Ok(Subject::Group(plane.get_group(name)?.id))
}

async fn mint(
    shared: &Shared,
    bearer: Bearer,
    organization: &str,
    (query, body): (TokenQuery, JsonBody),
    subject: impl FnOnce(&ControlPlane) -> Answer<Subject> + Send + 'static,
) -> Answer<Json<TokenAnswer>> {
    let life =
        expiration::parse(query.expiration.as_deref().unwrap_or("never")).map_err(Refusal::bad_request)?;
    let access = match query.authorization.as_deref() {
        None | Some("") => Access::Full,
        Some(text) => Access::parse(text)
            .ok_or_else(|| Refusal::bad_request("invalid authorization: it is full-access or read-only"))?,
    };
    let body: TokenBody = body.read()?;
    // Clients send an empty list of databases to attach whether or not they were asked to.
    let attaches = body.permissions.and_then(|permissions| permissions.read_attach);
    if attaches.is_some_and(|attach| !attach.databases.is_empty())
        || body.fine_grained_permissions.is_some_and(|list| !list.is_empty())
    {
        return Err(Refusal::bad_request("permissions within a database are not supported"));
    }
    let tokens = Arc::clone(shared.tokens()?);
    shared
        .quick(bearer, organization, Access::Full, move |plane| {
            Ok(TokenAnswer { jwt: tokens.mint(&subject(plane)?, access, life)? })
        })
        .await
}

async fn rotate(
    shared: &Shared,
    bearer: Bearer,
    organization: &str,
    subject: impl FnOnce(&ControlPlane) -> Answer<Subject> + Send + 'static,
) -> Answer<Json<Nothing>> {
    let tokens = Arc::clone(shared.tokens()?);
    shared
        .quick(bearer, organization, Access::Full, move |plane| {
            tokens.rotate(&subject(plane)?)?;
            Ok(Nothing {})
        })
        .await
}
