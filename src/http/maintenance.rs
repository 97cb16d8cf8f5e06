//! Handlers that maintain and verify a database on request.

use axum::Json;

use super::{
    auth::Access,
    executor::CallClass,
    history_body::{MaintainedAnswer, VerifiedAnswer, Verify},
    openapi::{Conflict, Missing, NoRoom, Refused},
    request::{Call, JsonBody, JsonResult},
};
use crate::{MaintainOptions, VerifyOptions};

/// Maintains a database: takes due snapshots, prunes the history and compresses old logs.
#[utoipa::path(
    post, path = "/{name}/maintain", tag = "databases", operation_id = "maintainDatabase",
    responses((status = 200, description = "What was done", body = MaintainedAnswer), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn maintain(call: Call<String>) -> JsonResult<MaintainedAnswer> {
    call.with_database(CallClass::Maintenance, Access::Full, |context, database, cancellation| {
        let options = MaintainOptions::default().progress(cancellation.progress());
        let report = context.plane.maintain_database(&database, options)?;
        Ok(Json(report.into()))
    })
    .await
}

/// Verifies a database and its whole history. Changes nothing.
#[utoipa::path(
    post, path = "/{name}/verify", tag = "databases", operation_id = "verifyDatabase",
    request_body = Option<Verify>,
    responses((status = 200, description = "The findings", body = VerifiedAnswer), Refused, Missing, Conflict),
)]
pub(super) async fn verify(call: Call<String>, body: JsonBody) -> JsonResult<VerifiedAnswer> {
    let Verify { remote_encryption } = body.parse()?;
    call.with_database(CallClass::Maintenance, Access::ReadOnly, move |context, database, cancellation| {
        let mut options = VerifyOptions::default();
        if let Some(encryption) = &remote_encryption {
            options = options.encryption_key(encryption.key().clone());
        }
        let data = context.plane.database_path(&database)?;
        let report = context.plane.verify_database(&database, options.progress(cancellation.progress()))?;
        Ok(Json(VerifiedAnswer::new(report, data.parent().unwrap_or(&data))))
    })
    .await
}
