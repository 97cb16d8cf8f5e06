//! Handlers for groups.

use super::{
    app::Context,
    body::{
        CreateGroup, GroupAnswer, GroupBody, GroupConfiguration, GroupConfigurationChanges, GroupsAnswer,
        Nothing, RenameGroup,
    },
    error::{ApiError, ApiResult},
    openapi::{Conflict, Missing, NoRoom, Refused},
    request::{Call, JsonBody, JsonResult},
};
use crate::{Group, GroupChanges};

fn group_answer(group: Group, location: &str) -> GroupAnswer {
    GroupAnswer { group: GroupBody::new(group, location) }
}

/// Fails unless `location` is the server's location, which all groups have.
fn check_location(context: &Context<'_>, location: &str) -> ApiResult<()> {
    if location != context.location {
        return Err(ApiError::bad_request(format!("invalid location: {location}")));
    }
    Ok(())
}

/// Lists groups.
#[utoipa::path(
    get, path = "/", tag = "groups", operation_id = "listGroups",
    responses((status = 200, description = "The groups", body = GroupsAnswer), Refused),
)]
pub(super) async fn list(call: Call) -> JsonResult<GroupsAnswer> {
    call.read(|context, ()| {
        let groups = context.plane.list_groups()?.into_iter();
        Ok(GroupsAnswer { groups: groups.map(|group| GroupBody::new(group, context.location)).collect() })
    })
    .await
}

/// Creates a group. A location in the request is ignored: there is only one.
#[utoipa::path(
    post, path = "/", tag = "groups", operation_id = "createGroup",
    request_body = CreateGroup,
    responses((status = 200, description = "The new group", body = GroupAnswer), Refused, Conflict, NoRoom),
)]
pub(super) async fn create(call: Call, body: JsonBody) -> JsonResult<GroupAnswer> {
    let CreateGroup { name } = body.parse()?;
    call.write(move |context, ()| Ok(group_answer(context.plane.create_group(&name)?, context.location)))
        .await
}

/// Shows a group.
#[utoipa::path(
    get, path = "/{name}", tag = "groups", operation_id = "getGroup",
    responses((status = 200, description = "The group", body = GroupAnswer), Refused, Missing),
)]
pub(super) async fn show(call: Call<String>) -> JsonResult<GroupAnswer> {
    call.read(|context, name| Ok(group_answer(context.plane.get_group(&name)?, context.location))).await
}

/// Destroys a group and every database in it.
#[utoipa::path(
    delete, path = "/{name}", tag = "groups", operation_id = "destroyGroup",
    responses((status = 200, description = "The destroyed group", body = GroupAnswer), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn destroy(call: Call<String>) -> JsonResult<GroupAnswer> {
    call.write(|context, name| {
        let group = context.plane.get_group(&name)?;
        context.plane.destroy_group(&group)?;
        Ok(group_answer(group, context.location))
    })
    .await
}

/// Returns the group if it has this location. Others cannot be added.
#[utoipa::path(
    post, path = "/{name}/locations/{location}", tag = "groups", operation_id = "addLocation",
    responses((status = 200, description = "The group", body = GroupAnswer), Refused, Missing),
)]
pub(super) async fn add_location(call: Call<(String, String)>) -> JsonResult<GroupAnswer> {
    call.write(|context, (name, location)| {
        let group = context.plane.get_group(&name)?;
        check_location(context, &location)?;
        Ok(group_answer(group, context.location))
    })
    .await
}

/// Always fails: a group cannot leave its only location.
#[utoipa::path(
    delete, path = "/{name}/locations/{location}", tag = "groups", operation_id = "removeLocation",
    responses((status = 200, description = "Never returned", body = GroupAnswer), Refused, Missing),
)]
pub(super) async fn remove_location(call: Call<(String, String)>) -> JsonResult<GroupAnswer> {
    call.write(|context, (name, location)| {
        context.plane.get_group(&name)?;
        check_location(context, &location)?;
        Err(ApiError::bad_request("replication is not supported; a group cannot leave its only location"))
    })
    .await
}

/// Shows the configuration of a group: its protection, history window and history limit.
#[utoipa::path(
    get, path = "/{name}/configuration", tag = "groups", operation_id = "getGroupConfiguration",
    responses((status = 200, description = "The configuration", body = GroupConfiguration), Refused, Missing),
)]
pub(super) async fn configuration(call: Call<String>) -> JsonResult<GroupConfiguration> {
    call.read(|context, name| Ok(GroupConfiguration::of(&context.plane.get_group(&name)?))).await
}

/// Changes the configuration of a group. Omitted fields are unchanged.
#[utoipa::path(
    patch, path = "/{name}/configuration", tag = "groups", operation_id = "configureGroup",
    request_body = Option<GroupConfigurationChanges>,
    responses((status = 200, description = "The new configuration", body = GroupConfiguration), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn configure(call: Call<String>, body: JsonBody) -> JsonResult<GroupConfiguration> {
    let GroupConfigurationChanges { delete_protection, history_window, history_limit } = body.parse()?;
    let history_window = history_window.map(|window| window.parse()).transpose()?;
    let history_limit = history_limit.map(|limit| limit.parse()).transpose()?;
    let changes = GroupChanges { delete_protection, history_window, history_limit };
    call.write(move |context, name| {
        Ok(GroupConfiguration::of(&context.plane.configure_group(&name, changes)?))
    })
    .await
}

/// Renames a group. Its databases, their host names and all tokens are unchanged.
#[utoipa::path(
    post, path = "/{name}/rename", tag = "groups", operation_id = "renameGroup",
    request_body = RenameGroup,
    responses((status = 200, description = "The renamed group", body = GroupAnswer), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn rename(call: Call<String>, body: JsonBody) -> JsonResult<GroupAnswer> {
    let RenameGroup { name: new } = body.parse()?;
    call.write(move |context, name| {
        Ok(group_answer(context.plane.rename_group(&name, &new)?, context.location))
    })
    .await
}

/// Has no effect: groups are not archived. Returns the group.
#[utoipa::path(
    post, path = "/{name}/unarchive", tag = "groups", operation_id = "unarchiveGroup",
    responses((status = 200, description = "The group", body = GroupAnswer), Refused, Missing),
)]
pub(super) async fn unarchive(call: Call<String>) -> JsonResult<GroupAnswer> {
    call.write(|context, name| Ok(group_answer(context.plane.get_group(&name)?, context.location))).await
}

/// Has no effect: the engine is linked into the server.
#[utoipa::path(
    post, path = "/{name}/update", tag = "groups", operation_id = "updateGroup",
    responses((status = 200, description = "No effect", body = Nothing), Refused, Missing),
)]
pub(super) async fn update(call: Call<String>) -> JsonResult<Nothing> {
    call.write(|context, name| Ok(context.plane.get_group(&name).map(|_| Nothing {})?)).await
}

/// Returns at once: a group is at its location from the start.
#[utoipa::path(
    get, path = "/{name}/locations/{location}/wait", tag = "groups", operation_id = "waitForLocation",
    responses((status = 200, description = "The group is at this location", body = Nothing), Refused, Missing),
)]
pub(super) async fn wait_for_location(call: Call<(String, String)>) -> JsonResult<Nothing> {
    call.read(|context, (name, location)| {
        context.plane.get_group(&name)?;
        check_location(context, &location).map(|()| Nothing {})
    })
    .await
}
