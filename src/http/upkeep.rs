//! Maintaining and verifying a database when a client asks for it.

use axum::Json;

use super::{
    State,
    access::Access,
    history::database_for,
    openapi::{Conflict, Missing, NoRoom, Refused},
    refusal::Answer,
    reports::{MaintainedAnswer, VerifiedAnswer, Verify},
    request::{Bearer, JsonBody, Place},
    work::Load,
};
use crate::VerifyOptions;

/// Maintains a database: makes the snapshots that are due, removes what no window needs, and compresses old logs.
#[utoipa::path(
    post, path = "/{name}/maintain", tag = "databases", operation_id = "maintainDatabase",
    responses((status = 200, description = "Done", body = MaintainedAnswer), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn maintain(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<MaintainedAnswer>> {
    shared.check_organization(&organization)?;
    shared
        .run(Load::Upkeep, bearer, move |plane, caller, going| {
            let database = database_for(plane, caller, &name, Access::Full)?;
            let done = plane.maintain_database(&database, &mut *going.watch())?;
            Ok(Json(done.into()))
        })
        .await
}

/// Verifies a database and its whole history, and changes nothing.
#[utoipa::path(
    post, path = "/{name}/verify", tag = "databases", operation_id = "verifyDatabase",
    request_body = Option<Verify>,
    responses((status = 200, description = "Done", body = VerifiedAnswer), Refused, Missing, Conflict),
)]
pub(super) async fn verify(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    body: JsonBody,
) -> Answer<Json<VerifiedAnswer>> {
    shared.check_organization(&organization)?;
    let Verify { remote_encryption } = body.read()?;
    shared
        .run(Load::Upkeep, bearer, move |plane, caller, going| {
            let database = database_for(plane, caller, &name, Access::ReadOnly)?;
            let mut options = VerifyOptions::default();
            if let Some(encryption) = &remote_encryption {
                options = options.encryption_key(encryption.key().clone());
            }
            let data = plane.database_path(&database)?;
            let verified = plane.verify_database(&database, &options, &mut *going.watch())?;
            Ok(Json(VerifiedAnswer::new(verified, data.parent().unwrap_or(&data))))
        })
        .await
}
