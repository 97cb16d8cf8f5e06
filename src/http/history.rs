//! The history of a database: what it can be restored to, and restoring it in place.

use std::{num::NonZeroU32, ops::Bound};

use axum::Json;

use super::{
    State,
    access::{Access, Caller},
    body::{Pagination, PointsAnswer, PointsQuery, Restore, RestoreAnswer},
    databases::instant,
    openapi::{Conflict, Missing, NoRoom, Refused},
    refusal::Answer,
    request::{Bearer, JsonBody, Parameters, Place},
    work::Load,
};
use crate::{ConnectOptions, ControlPlane, Database, Point, Timestamp};

/// A database, if the caller may do this with it. What is done with it then must be done by its id, which the token was
/// checked against: the name may be another database's by then.
pub(super) fn database_for(
    plane: &ControlPlane,
    caller: &Caller,
    name: &str,
    access: Access,
) -> Answer<Database> {
    let database = plane.get_database(name)?;
    caller.may_with(&database, &plane.group_of_database(&database)?, access)?;
    Ok(database)
}

/// Lists the instants that a database can be restored to.
#[utoipa::path(
    get, path = "/{name}/points", tag = "databases", operation_id = "listPoints",
    params(PointsQuery),
    responses((status = 200, description = "Done", body = PointsAnswer), Refused, Missing, Conflict),
)]
pub(super) async fn points(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    Parameters(span): Parameters<PointsQuery>,
) -> Answer<Json<PointsAnswer>> {
    shared.check_organization(&organization)?;
    let from = instant("from", span.from.as_deref())?.map_or(Bound::Unbounded, Bound::Included);
    let to = instant("to", span.to.as_deref())?.map_or(Bound::Unbounded, Bound::Included);
    shared
        .run(Load::Long, bearer, move |plane, caller, _| {
            let database = database_for(plane, caller, &name, Access::ReadOnly)?;
            let found = plane.points(&database, (from, to))?;
            let (points, pagination) = match span.limit {
                Some(limit) => latest(found.points, limit)?,
                None => (found.points, None),
            };
            Ok(Json(PointsAnswer {
                points: points.into_iter().map(Into::into).collect(),
                windows: found.windows.into_iter().map(Into::into).collect(),
                pagination,
            }))
        })
        .await
}

/// The latest points, and where those before them end.
fn latest(mut points: Vec<Point>, limit: NonZeroU32) -> Answer<(Vec<Point>, Option<Pagination>)> {
    let before = points.len().saturating_sub(limit.get() as usize);
    let latest = points.split_off(before);
    let first = latest.first().filter(|_| before > 0);
    // Stamps never repeat.
    let next = first.map(|first| Timestamp::from_micros(first.at.as_micros() - 1)).transpose()?;
    Ok((latest, Some(Pagination { next: next.map(|at| at.to_string()) })))
}

/// Restores a database in place, and says which instant undoes that.
#[utoipa::path(
    post, path = "/{name}/restore", tag = "databases", operation_id = "restoreDatabase",
    request_body = Restore,
    responses((status = 200, description = "Done", body = RestoreAnswer), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn restore(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    body: JsonBody,
) -> Answer<Json<RestoreAnswer>> {
    shared.check_organization(&organization)?;
    let Restore { timestamp, remote_encryption } = body.read()?;
    shared
        .run(Load::Long, bearer, move |plane, caller, going| {
            let database = database_for(plane, caller, &name, Access::Full)?;
            let mut options = ConnectOptions::default();
            if let Some(encryption) = &remote_encryption {
                options = options.encryption_key(encryption.key().clone());
            }
            let restored = plane.restore_database(&database, timestamp, &options, &mut *going.watch())?;
            Ok(Json(restored.into()))
        })
        .await
}
