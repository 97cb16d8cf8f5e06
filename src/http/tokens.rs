//! Handlers that mint and revoke tokens of databases and groups.

use std::time::Duration;

use super::{
    app::Context,
    auth::{Access, Subject},
    body::{Nothing, TokenAnswer, TokenBody, TokenQuery},
    error::{ApiError, ApiResult},
    expiration,
    openapi::{Conflict, Missing, Refused},
    request::{Call, JsonBody, JsonResult, QueryParams},
};

/// Finds the subject that a path names.
type FindSubject = fn(&Context<'_>, &str) -> ApiResult<Subject>;

fn database(context: &Context<'_>, name: &str) -> ApiResult<Subject> {
    Ok(Subject::Database(context.plane.get_database(name)?.id))
}

fn group(context: &Context<'_>, name: &str) -> ApiResult<Subject> {
    Ok(Subject::Group(context.plane.get_group(name)?.id))
}

/// Mints a token of a database.
#[utoipa::path(
    post, path = "/{name}/auth/tokens", tag = "databases", operation_id = "createDatabaseToken",
    params(TokenQuery),
    request_body = Option<TokenBody>,
    responses((status = 200, description = "The token", body = TokenAnswer), Refused, Missing, Conflict),
)]
pub(super) async fn mint_for_database(
    call: Call<String>,
    QueryParams(query): QueryParams<TokenQuery>,
    body: JsonBody,
) -> JsonResult<TokenAnswer> {
    mint(call, &query, body, database).await
}

/// Mints a token of a group, valid for every database in it.
#[utoipa::path(
    post, path = "/{name}/auth/tokens", tag = "groups", operation_id = "createGroupToken",
    params(TokenQuery),
    request_body = Option<TokenBody>,
    responses((status = 200, description = "The token", body = TokenAnswer), Refused, Missing, Conflict),
)]
pub(super) async fn mint_for_group(
    call: Call<String>,
    QueryParams(query): QueryParams<TokenQuery>,
    body: JsonBody,
) -> JsonResult<TokenAnswer> {
    mint(call, &query, body, group).await
}

/// Revokes all tokens of a database.
#[utoipa::path(
    post, path = "/{name}/auth/rotate", tag = "databases", operation_id = "rotateDatabaseTokens",
    responses((status = 200, description = "The tokens are revoked", body = Nothing), Refused, Missing, Conflict),
)]
pub(super) async fn rotate_database(call: Call<String>) -> JsonResult<Nothing> {
    rotate(call, database).await
}

/// Revokes all tokens of a group.
#[utoipa::path(
    post, path = "/{name}/auth/rotate", tag = "groups", operation_id = "rotateGroupTokens",
    responses((status = 200, description = "The tokens are revoked", body = Nothing), Refused, Missing, Conflict),
)]
pub(super) async fn rotate_group(call: Call<String>) -> JsonResult<Nothing> {
    rotate(call, group).await
}

async fn mint(
    call: Call<String>,
    query: &TokenQuery,
    body: JsonBody,
    find: FindSubject,
) -> JsonResult<TokenAnswer> {
    let (access, lifetime) = parse_query(query)?;
    let body: TokenBody = body.parse()?;
    // Clients send an empty list of databases to attach by default.
    let attach = body.permissions.and_then(|permissions| permissions.read_attach);
    if attach.is_some_and(|attach| !attach.databases.is_empty())
        || body.fine_grained_permissions.is_some_and(|list| !list.is_empty())
    {
        return Err(ApiError::bad_request("permissions within a database are not supported"));
    }
    let tokens = call.app().tokens()?;
    call.write(move |context, name| {
        Ok(TokenAnswer { jwt: tokens.mint(&find(context, &name)?, access, lifetime)? })
    })
    .await
}

fn parse_query(query: &TokenQuery) -> ApiResult<(Access, Option<Duration>)> {
    let lifetime = query.expiration.as_deref().unwrap_or("never");
    let lifetime = expiration::parse(lifetime).map_err(ApiError::bad_request)?;
    let access = match query.authorization.as_deref() {
        None | Some("") => Access::Full,
        Some(text) => Access::parse(text)
            .ok_or_else(|| ApiError::bad_request("invalid authorization: use full-access or read-only"))?,
    };
    Ok((access, lifetime))
}

async fn rotate(call: Call<String>, find: FindSubject) -> JsonResult<Nothing> {
    let tokens = call.app().tokens()?;
    call.write(move |context, name| Ok(tokens.rotate(&find(context, &name)?).map(|()| Nothing {})?)).await
}
