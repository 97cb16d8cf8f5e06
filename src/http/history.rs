//! Handlers for the history of a database: its recovery points, and restoring it in place.

use std::{num::NonZeroU32, ops::Bound};

use axum::Json;

use super::{
    auth::Access,
    body::Pagination,
    error::ApiResult,
    executor::CallClass,
    history_body::{PointsAnswer, PointsQuery, Restore, RestoreAnswer},
    openapi::{Conflict, Missing, NoRoom, Refused},
    request::{Call, JsonBody, JsonResult, QueryParams, parse_instant},
};
use crate::{Point, PruneReason, RestoreOptions, Timestamp};

/// Lists the recovery points of a database.
#[utoipa::path(
    get, path = "/{name}/points", tag = "databases", operation_id = "listPoints",
    params(PointsQuery),
    responses((status = 200, description = "The recovery points", body = PointsAnswer), Refused, Missing, Conflict),
)]
pub(super) async fn points(
    call: Call<String>,
    QueryParams(span): QueryParams<PointsQuery>,
) -> JsonResult<PointsAnswer> {
    let from = parse_instant("from", span.from.as_deref())?.map_or(Bound::Unbounded, Bound::Included);
    let to = parse_instant("to", span.to.as_deref())?.map_or(Bound::Unbounded, Bound::Included);
    call.with_database(CallClass::Copy, Access::ReadOnly, move |context, database, _| {
        let found = context.plane.points(&database, (from, to))?;
        let (points, pagination) = match span.limit {
            Some(limit) => latest(found.points, limit)?,
            None => (found.points, None),
        };
        Ok(Json(PointsAnswer {
            points: points.into_iter().map(Into::into).collect(),
            windows: found.windows.into_iter().map(Into::into).collect(),
            pruned_by: found.pruned_by.map(PruneReason::as_str),
            pagination,
        }))
    })
    .await
}

/// Returns the latest `limit` points, and a pagination whose `next` is the end of the span of those before.
fn latest(mut points: Vec<Point>, limit: NonZeroU32) -> ApiResult<(Vec<Point>, Option<Pagination>)> {
    let before = points.len().saturating_sub(limit.get() as usize);
    let latest = points.split_off(before);
    let first = latest.first().filter(|_| before > 0);
    // Timestamps of commits are unique.
    let next = first.map(|first| Timestamp::from_micros(first.at.as_micros() - 1)).transpose()?;
    Ok((latest, Some(Pagination { next: next.map(|at| at.to_string()) })))
}

/// Restores a database in place, and returns the instant that undoes it.
#[utoipa::path(
    post, path = "/{name}/restore", tag = "databases", operation_id = "restoreDatabase",
    request_body = Restore,
    responses((status = 200, description = "The restored instant", body = RestoreAnswer), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn restore(call: Call<String>, body: JsonBody) -> JsonResult<RestoreAnswer> {
    let Restore { timestamp, remote_encryption } = body.parse()?;
    call.with_database(CallClass::Copy, Access::Full, move |context, database, cancellation| {
        let mut options = RestoreOptions::default();
        if let Some(encryption) = &remote_encryption {
            options = options.encryption_key(encryption.key().clone());
        }
        let options = options.progress(cancellation.progress());
        let restored = context.plane.restore_database(&database, timestamp, options)?;
        Ok(Json(restored.into()))
    })
    .await
}
