//! The databases of the fleet.

use axum::Json;

use super::{
    State,
    access::Access,
    body::{
        Configuration, ConfigurationChanges, DatabaseAnswer, DatabaseBody, DatabasesAnswer, DatabasesQuery,
        Instance, InstanceAnswer, InstanceUsage, InstancesAnswer, Nothing, Pagination, SpanQuery, Stats,
        Usage, UsageFigures,
    },
    openapi::{Conflict, Missing, NoRoom, Refused},
    refusal::{Answer, Refusal},
    request::{Bearer, JsonBody, Parameters, Place},
    work::Load,
};
use crate::{
    Change, CreateDatabaseInput, CreateDatabaseOutput, Database, DatabaseChanges, DatabaseState, ErrorKind,
    ListDatabases, Seed, Timestamp,
};

/// Creates a database: empty, as a fork, as a draft for an upload, or as of an instant.
#[utoipa::path(
    post, path = "/", tag = "databases", operation_id = "createDatabase",
    request_body = CreateDatabaseInput,
    responses((status = 200, description = "Done", body = DatabaseAnswer<CreateDatabaseOutput>), Refused, NoRoom, Conflict),
)]
pub(super) async fn create(
    shared: State,
    bearer: Bearer,
    Place(organization): Place<String>,
    body: JsonBody,
) -> Answer<Json<DatabaseAnswer<CreateDatabaseOutput>>> {
    let input = CreateDatabaseInput::read(body.value())?;
    let load = if matches!(input.seed, Some(Seed::Database { .. })) { Load::Long } else { Load::Quick };
    shared
        .manage(load, bearer, &organization, Access::Full, move |plane, going| {
            let made = plane.create_database_watched(input, &mut *going.watch());
            Ok(Json(DatabaseAnswer { database: made.map_err(Refusal::of_body)? }))
        })
        .await
}

/// Lists databases.
#[utoipa::path(
    get, path = "/", tag = "databases", operation_id = "listDatabases",
    params(DatabasesQuery),
    responses((status = 200, description = "Done", body = DatabasesAnswer), Refused),
)]
pub(super) async fn list(
    shared: State,
    bearer: Bearer,
    Place(organization): Place<String>,
    Parameters(query): Parameters<DatabasesQuery>,
) -> Answer<Json<DatabasesAnswer>> {
    let location = shared.location.clone();
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            let DatabasesQuery { group, parent, limit, cursor, schema, r#type } = query;
            // There are no databases that hold the schema of others.
            if schema.is_some() || r#type.as_deref() == Some("schema") {
                return Ok(DatabasesAnswer { databases: Vec::new(), pagination: None });
            }
            let which = ListDatabases { group, parent, after: cursor, limit };
            let databases = plane.list_databases(&which).map_err(Refusal::of_body)?;
            // Clients that do not ask for pages do not look for a next one.
            let pagination = limit.map(|limit| {
                let last = databases.last().filter(|_| databases.len() == limit as usize);
                Pagination { next: last.map(|last| last.name.to_string()) }
            });
            let databases =
                databases.into_iter().map(|database| DatabaseBody::new(database, &location)).collect();
            Ok(DatabasesAnswer { databases, pagination })
        })
        .await
}

/// Shows a database.
#[utoipa::path(
    get, path = "/{name}", tag = "databases", operation_id = "getDatabase",
    responses((status = 200, description = "Done", body = DatabaseAnswer<DatabaseBody>), Refused, Missing),
)]
pub(super) async fn show(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<DatabaseAnswer<DatabaseBody>>> {
    let location = shared.location.clone();
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            let database = DatabaseBody::new(plane.get_database(&name)?, &location);
            Ok(DatabaseAnswer { database })
        })
        .await
}

/// Destroys a database, and its history with it.
#[utoipa::path(
    delete, path = "/{name}", tag = "databases", operation_id = "destroyDatabase",
    responses((status = 200, description = "Done", body = DatabaseAnswer<String>), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn destroy(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<DatabaseAnswer<String>>> {
    shared
        .quick(bearer, &organization, Access::Full, move |plane| {
            plane.destroy_database(&name)?;
            Ok(DatabaseAnswer { database: name })
        })
        .await
}

/// Shows the limits and blocks of a database, its protection and its history window.
#[utoipa::path(
    get, path = "/{name}/configuration", tag = "databases", operation_id = "getDatabaseConfiguration",
    responses((status = 200, description = "Done", body = Configuration), Refused, Missing),
)]
pub(super) async fn configuration(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<Configuration>> {
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            Ok(configuration_of(&plane.get_database(&name)?))
        })
        .await
}

/// Changes them. What is left out stays as it is.
#[utoipa::path(
    patch, path = "/{name}/configuration", tag = "databases", operation_id = "configureDatabase",
    request_body = Option<ConfigurationChanges>,
    responses((status = 200, description = "Done", body = Configuration), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn configure(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    body: JsonBody,
) -> Answer<Json<Configuration>> {
    let changes = changes_of(body.read()?)?;
    shared
        .quick(bearer, &organization, Access::Full, move |plane| {
            Ok(configuration_of(&plane.configure_database(&name, changes)?))
        })
        .await
}

fn configuration_of(database: &Database) -> Configuration {
    Configuration {
        size_limit: database.size_limit.map(|limit| limit.to_string()),
        history_window: database.history_window.to_string(),
        block_reads: database.block_reads,
        block_writes: database.block_writes,
        delete_protection: database.delete_protection,
        allow_attach: false,
        allowed_ips: [],
        allowed_aws_vpc_ids: [],
    }
}

/// What a client wants to have changed. What this server cannot do is refused, and not passed over.
fn changes_of(wanted: ConfigurationChanges) -> Answer<DatabaseChanges> {
    let unsupported = |message: &str| {
        let status = axum::http::StatusCode::BAD_REQUEST;
        Err(Refusal::new(status, ErrorKind::Unsupported.as_str(), message))
    };
    if wanted.allow_attach == Some(true) {
        return unsupported("allow_attach is not supported: a host program attaches databases itself");
    }
    let is_given = |list: Option<Vec<String>>| list.is_some_and(|list| !list.is_empty());
    if is_given(wanted.allowed_ips) || is_given(wanted.allowed_aws_vpc_ids) {
        return unsupported("allow rules are not supported: limit who reaches the server");
    }
    Ok(DatabaseChanges {
        size_limit: match wanted.size_limit.as_deref() {
            None => Change::Keep,
            Some("" | "none") => Change::Reset,
            Some(limit) => Change::Set(limit.parse()?),
        },
        history_window: match wanted.history_window.as_deref() {
            None => Change::Keep,
            Some("default") => Change::Reset,
            Some(window) => Change::Set(window.parse()?),
        },
        block_reads: wanted.block_reads,
        block_writes: wanted.block_writes,
        delete_protection: wanted.delete_protection,
    })
}

/// Tells how many bytes a database takes on the disk. Rows are not counted.
#[utoipa::path(
    get, path = "/{name}/usage", tag = "databases", operation_id = "getDatabaseUsage",
    params(SpanQuery),
    responses((status = 200, description = "Done", body = DatabaseAnswer<Usage>), Refused, Missing),
)]
pub(super) async fn usage(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    Parameters(span): Parameters<SpanQuery>,
) -> Answer<Json<DatabaseAnswer<Usage>>> {
    instant("from", span.from.as_deref())?;
    instant("to", span.to.as_deref())?;
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            let database = plane.get_database(&name)?;
            let mut figures = UsageFigures::default();
            if database.state == DatabaseState::Ready {
                figures.storage_bytes = plane.database_size(&database)?;
            }
            let instances = [InstanceUsage { uuid: database.id.clone(), usage: figures }];
            let usage = Usage { uuid: database.id, instances, usage: figures, total: figures };
            Ok(DatabaseAnswer { database: usage })
        })
        .await
}

/// An instant in a parameter.
pub(super) fn instant(parameter: &str, text: Option<&str>) -> Answer<Option<Timestamp>> {
    text.map(str::parse)
        .transpose()
        .map_err(|error| Refusal::bad_request(format!("invalid {parameter} parameter: {error}")))
}

/// Lists the one instance of a database.
#[utoipa::path(
    get, path = "/{name}/instances", tag = "databases", operation_id = "listInstances",
    responses((status = 200, description = "Done", body = InstancesAnswer), Refused, Missing),
)]
pub(super) async fn instances(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<InstancesAnswer>> {
    let location = shared.location.clone();
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            Ok(InstancesAnswer { instances: [instance_of(plane.get_database(&name)?, &location)] })
        })
        .await
}

/// Shows an instance.
#[utoipa::path(
    get, path = "/{name}/instances/{instance}", tag = "databases", operation_id = "getInstance",
    responses((status = 200, description = "Done", body = InstanceAnswer), Refused, Missing),
)]
pub(super) async fn instance(
    shared: State,
    bearer: Bearer,
    Place((organization, name, instance)): Place<(String, String, String)>,
) -> Answer<Json<InstanceAnswer>> {
    let location = shared.location.clone();
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            let database = plane.get_database(&name)?;
            if instance != location {
                let message = format!("could not find instance {instance} of database {name}");
                return Err(crate::Error::new(ErrorKind::NotFound, message).into());
            }
            Ok(InstanceAnswer { instance: instance_of(database, &location) })
        })
        .await
}

fn instance_of(database: Database, location: &str) -> Instance {
    Instance {
        uuid: database.id,
        name: location.to_owned(),
        r#type: "primary",
        region: location.to_owned(),
        hostname: database.hostname,
    }
}

/// Does nothing: clients ask for the newest version of the engine, which is the one that is linked.
#[utoipa::path(
    post, path = "/{name}/update", tag = "databases", operation_id = "updateDatabase",
    responses((status = 200, description = "Done", body = Nothing), Refused, Missing),
)]
pub(super) async fn update(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<Nothing>> {
    shared
        .quick(bearer, &organization, Access::Full, move |plane| {
            plane.get_database(&name)?;
            Ok(Nothing {})
        })
        .await
}

/// Does nothing: no database sleeps for not being used.
#[utoipa::path(
    post, path = "/{name}/wakeup", tag = "databases", operation_id = "wakeUpDatabase",
    responses((status = 200, description = "Done", body = Nothing), Refused, Missing),
)]
pub(super) async fn wake_up(
    shared: State,
    bearer: Bearer,
    place: Place<(String, String)>,
) -> Answer<Json<Nothing>> {
    update(shared, bearer, place).await
}

/// Names no queries: nobody counts them.
#[utoipa::path(
    get, path = "/{name}/stats", tag = "databases", operation_id = "getDatabaseStats",
    responses((status = 200, description = "Done", body = Stats), Refused, Missing),
)]
pub(super) async fn stats(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<Stats>> {
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            plane.get_database(&name)?;
            Ok(Stats { top_queries: None })
        })
        .await
}
