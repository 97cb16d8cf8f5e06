//! Handlers for databases.

use axum::http::StatusCode;

use super::{
    auth::Access,
    body::{
        Configuration, ConfigurationChanges, DatabaseAnswer, DatabaseBody, DatabasesAnswer, DatabasesQuery,
        Instance, InstanceAnswer, InstanceUsage, InstancesAnswer, Nothing, Pagination, SpanQuery, Stats,
        Usage, UsageFigures,
    },
    error::{ApiError, ApiResult},
    executor::CallClass,
    openapi::{Conflict, Missing, NoRoom, Refused},
    request::{Call, JsonBody, JsonResult, QueryParams, parse_instant},
};
use crate::{
    Change, CreateDatabaseInput, CreateDatabaseOutput, DatabaseChanges, DatabaseState, ErrorKind,
    ListDatabases, Seed,
};

/// Creates a database: empty, as a fork, as of an instant, or as a draft for an upload.
#[utoipa::path(
    post, path = "/", tag = "databases", operation_id = "createDatabase",
    request_body = CreateDatabaseInput,
    responses((status = 200, description = "The new database", body = DatabaseAnswer<CreateDatabaseOutput>), Refused, NoRoom, Conflict),
)]
pub(super) async fn create(call: Call, body: JsonBody) -> JsonResult<DatabaseAnswer<CreateDatabaseOutput>> {
    let input = CreateDatabaseInput::read(body.into_value())?;
    let is_fork = matches!(input.seed, Some(Seed::Database { .. }));
    let class = if is_fork { CallClass::Copy } else { CallClass::Catalog };
    call.manage(class, Access::Full, move |context, ()| {
        let created = context.plane.create_database(input.progress(context.cancellation.progress()));
        Ok(DatabaseAnswer { database: created.map_err(ApiError::from_body)? })
    })
    .await
}

/// Lists databases.
#[utoipa::path(
    get, path = "/", tag = "databases", operation_id = "listDatabases",
    params(DatabasesQuery),
    responses((status = 200, description = "The databases", body = DatabasesAnswer), Refused),
)]
pub(super) async fn list(
    call: Call,
    QueryParams(query): QueryParams<DatabasesQuery>,
) -> JsonResult<DatabasesAnswer> {
    call.read(move |context, ()| {
        let DatabasesQuery { group, parent, limit, cursor, schema, r#type } = query;
        // Schema databases do not exist here.
        if schema.is_some() || r#type.as_deref() == Some("schema") {
            return Ok(DatabasesAnswer { databases: Vec::new(), pagination: None });
        }
        let filter = ListDatabases { group, parent, after: cursor, limit };
        let databases = context.plane.list_databases(filter).map_err(ApiError::from_body)?;
        // Only clients that request pages read `pagination`.
        let pagination = limit.map(|limit| {
            let last = databases.last().filter(|_| databases.len() == limit as usize);
            Pagination { next: last.map(|last| last.name.to_string()) }
        });
        let databases = databases.into_iter().map(|database| DatabaseBody::new(database, context.location));
        Ok(DatabasesAnswer { databases: databases.collect(), pagination })
    })
    .await
}

/// Shows a database.
#[utoipa::path(
    get, path = "/{name}", tag = "databases", operation_id = "getDatabase",
    responses((status = 200, description = "The database", body = DatabaseAnswer<DatabaseBody>), Refused, Missing),
)]
pub(super) async fn show(call: Call<String>) -> JsonResult<DatabaseAnswer<DatabaseBody>> {
    call.read(|context, name| {
        let database = DatabaseBody::new(context.plane.get_database(&name)?, context.location);
        Ok(DatabaseAnswer { database })
    })
    .await
}

/// Destroys a database and its history.
#[utoipa::path(
    delete, path = "/{name}", tag = "databases", operation_id = "destroyDatabase",
    responses((status = 200, description = "The name of the database", body = DatabaseAnswer<String>), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn destroy(call: Call<String>) -> JsonResult<DatabaseAnswer<String>> {
    call.write(|context, name| {
        context.plane.destroy_database(&name)?;
        Ok(DatabaseAnswer { database: name })
    })
    .await
}

/// Shows the configuration of a database: its limits, blocks, protection and history window.
#[utoipa::path(
    get, path = "/{name}/configuration", tag = "databases", operation_id = "getDatabaseConfiguration",
    responses((status = 200, description = "The configuration", body = Configuration), Refused, Missing),
)]
pub(super) async fn configuration(call: Call<String>) -> JsonResult<Configuration> {
    call.read(|context, name| Ok(Configuration::of(&context.plane.get_database(&name)?))).await
}

/// Changes the configuration of a database. Omitted fields are unchanged.
#[utoipa::path(
    patch, path = "/{name}/configuration", tag = "databases", operation_id = "configureDatabase",
    request_body = Option<ConfigurationChanges>,
    responses((status = 200, description = "The new configuration", body = Configuration), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn configure(call: Call<String>, body: JsonBody) -> JsonResult<Configuration> {
    let changes = database_changes(body.parse()?)?;
    call.write(move |context, name| Ok(Configuration::of(&context.plane.configure_database(&name, changes)?)))
        .await
}

/// Converts the requested changes. Fails for those that are not supported, rather than ignoring them.
fn database_changes(changes: ConfigurationChanges) -> ApiResult<DatabaseChanges> {
    let unsupported =
        |message: &str| Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorKind::Unsupported.as_str(), message));
    if changes.allow_attach == Some(true) {
        return unsupported("allow_attach is not supported; the host program attaches databases");
    }
    let is_given = |list: Option<Vec<String>>| list.is_some_and(|list| !list.is_empty());
    if is_given(changes.allowed_ips) || is_given(changes.allowed_aws_vpc_ids) {
        return unsupported("allow lists are not supported; restrict access to the server instead");
    }
    Ok(DatabaseChanges {
        size_limit: match changes.size_limit.as_deref() {
            None => Change::Keep,
            Some("" | "none") => Change::Reset,
            Some(limit) => Change::Set(limit.parse()?),
        },
        history_window: match changes.history_window.as_deref() {
            None => Change::Keep,
            Some("default") => Change::Reset,
            Some(window) => Change::Set(window.parse()?),
        },
        history_limit: match changes.history_limit.as_deref() {
            None => Change::Keep,
            Some("default") => Change::Reset,
            Some(limit) => Change::Set(limit.parse()?),
        },
        block_reads: changes.block_reads,
        block_writes: changes.block_writes,
        delete_protection: changes.delete_protection,
    })
}

/// Returns the size of a database and of its history on disk in bytes. Rows are not counted.
#[utoipa::path(
    get, path = "/{name}/usage", tag = "databases", operation_id = "getDatabaseUsage",
    params(SpanQuery),
    responses((status = 200, description = "The usage", body = DatabaseAnswer<Usage>), Refused, Missing),
)]
pub(super) async fn usage(
    call: Call<String>,
    QueryParams(span): QueryParams<SpanQuery>,
) -> JsonResult<DatabaseAnswer<Usage>> {
    parse_instant("from", span.from.as_deref())?;
    parse_instant("to", span.to.as_deref())?;
    call.read(|context, name| {
        let database = context.plane.get_database(&name)?;
        let mut usage = UsageFigures::default();
        if database.state == DatabaseState::Ready {
            usage.storage_bytes = context.plane.database_size(&database)?;
            usage.history_bytes = context.plane.history_size(&database)?;
        }
        let instances = [InstanceUsage { uuid: database.id.clone(), usage }];
        Ok(DatabaseAnswer { database: Usage { uuid: database.id, instances, usage, total: usage } })
    })
    .await
}

/// Lists the only instance of a database.
#[utoipa::path(
    get, path = "/{name}/instances", tag = "databases", operation_id = "listInstances",
    responses((status = 200, description = "The instance", body = InstancesAnswer), Refused, Missing),
)]
pub(super) async fn instances(call: Call<String>) -> JsonResult<InstancesAnswer> {
    call.read(|context, name| {
        let database = context.plane.get_database(&name)?;
        Ok(InstancesAnswer { instances: [Instance::new(database, context.location)] })
    })
    .await
}

/// Shows an instance of a database.
#[utoipa::path(
    get, path = "/{name}/instances/{instance}", tag = "databases", operation_id = "getInstance",
    responses((status = 200, description = "The instance", body = InstanceAnswer), Refused, Missing),
)]
pub(super) async fn instance(call: Call<(String, String)>) -> JsonResult<InstanceAnswer> {
    call.read(|context, (name, instance)| {
        let database = context.plane.get_database(&name)?;
        if instance != context.location {
            let message = format!("could not find instance {instance} of database {name}");
            return Err(ApiError::not_found(message));
        }
        Ok(InstanceAnswer { instance: Instance::new(database, context.location) })
    })
    .await
}

/// Has no effect: the engine is linked into the server.
#[utoipa::path(
    post, path = "/{name}/update", tag = "databases", operation_id = "updateDatabase",
    responses((status = 200, description = "No effect", body = Nothing), Refused, Missing),
)]
pub(super) async fn update(call: Call<String>) -> JsonResult<Nothing> {
    call.write(|context, name| Ok(context.plane.get_database(&name).map(|_| Nothing {})?)).await
}

/// Has no effect: databases do not sleep.
#[utoipa::path(
    post, path = "/{name}/wakeup", tag = "databases", operation_id = "wakeUpDatabase",
    responses((status = 200, description = "No effect", body = Nothing), Refused, Missing),
)]
pub(super) async fn wake_up(call: Call<String>) -> JsonResult<Nothing> {
    update(call).await
}

/// Returns no queries: they are not counted.
#[utoipa::path(
    get, path = "/{name}/stats", tag = "databases", operation_id = "getDatabaseStats",
    responses((status = 200, description = "No queries", body = Stats), Refused, Missing),
)]
pub(super) async fn stats(call: Call<String>) -> JsonResult<Stats> {
    call.read(|context, name| Ok(context.plane.get_database(&name).map(|_| Stats { top_queries: None })?))
        .await
}
