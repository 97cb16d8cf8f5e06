//! The groups of the fleet.

use axum::Json;

use super::{
    Shared, State,
    access::Access,
    body::{
        CreateGroup, GroupAnswer, GroupBody, GroupConfiguration, GroupConfigurationChanges, GroupsAnswer,
        Nothing, RenameGroup,
    },
    openapi::{Conflict, Missing, NoRoom, Refused},
    refusal::{Answer, Refusal},
    request::{Bearer, JsonBody, Place},
};
use crate::{ControlPlane, Group, GroupChanges};

/// Lists groups.
#[utoipa::path(
    get, path = "/", tag = "groups", operation_id = "listGroups",
    responses((status = 200, description = "Done", body = GroupsAnswer), Refused),
)]
pub(super) async fn list(
    shared: State,
    bearer: Bearer,
    Place(organization): Place<String>,
) -> Answer<Json<GroupsAnswer>> {
    let location = shared.location.clone();
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            let groups = plane.list_groups()?;
            let groups = groups.into_iter().map(|group| GroupBody::new(group, &location)).collect();
            Ok(GroupsAnswer { groups })
        })
        .await
}

/// Creates a group. The location that clients name is not looked at: there is one.
#[utoipa::path(
    post, path = "/", tag = "groups", operation_id = "createGroup",
    request_body = CreateGroup,
    responses((status = 200, description = "Done", body = GroupAnswer), Refused, Conflict, NoRoom),
)]
pub(super) async fn create(
    shared: State,
    bearer: Bearer,
    Place(organization): Place<String>,
    body: JsonBody,
) -> Answer<Json<GroupAnswer>> {
    let CreateGroup { name } = body.read()?;
    one(&shared, bearer, &organization, Access::Full, move |plane| Ok(plane.create_group(&name)?)).await
}

/// Shows a group.
#[utoipa::path(
    get, path = "/{name}", tag = "groups", operation_id = "getGroup",
    responses((status = 200, description = "Done", body = GroupAnswer), Refused, Missing),
)]
pub(super) async fn show(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<GroupAnswer>> {
    one(&shared, bearer, &organization, Access::ReadOnly, move |plane| Ok(plane.get_group(&name)?)).await
}

/// Destroys a group and every database in it.
#[utoipa::path(
    delete, path = "/{name}", tag = "groups", operation_id = "destroyGroup",
    responses((status = 200, description = "Done", body = GroupAnswer), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn destroy(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<GroupAnswer>> {
    one(&shared, bearer, &organization, Access::Full, move |plane| {
        let group = plane.get_group(&name)?;
        plane.destroy_group(&group)?;
        Ok(group)
    })
    .await
}

/// Answers with the group: it is at its location, and cannot be at another.
#[utoipa::path(
    post, path = "/{name}/locations/{location}", tag = "groups", operation_id = "addLocation",
    responses((status = 200, description = "Done", body = GroupAnswer), Refused, Missing),
)]
pub(super) async fn add_location(
    shared: State,
    bearer: Bearer,
    Place((organization, name, location)): Place<(String, String, String)>,
) -> Answer<Json<GroupAnswer>> {
    let known = shared.location.clone();
    one(&shared, bearer, &organization, Access::Full, move |plane| {
        let group = plane.get_group(&name)?;
        if location == known { Ok(group) } else { Err(no_location(&location)) }
    })
    .await
}

/// Is refused: a group cannot leave its only location.
#[utoipa::path(
    delete, path = "/{name}/locations/{location}", tag = "groups", operation_id = "removeLocation",
    responses((status = 200, description = "Done", body = GroupAnswer), Refused, Missing),
)]
pub(super) async fn remove_location(
    shared: State,
    bearer: Bearer,
    Place((organization, name, location)): Place<(String, String, String)>,
) -> Answer<Json<GroupAnswer>> {
    let known = shared.location.clone();
    one(&shared, bearer, &organization, Access::Full, move |plane| {
        plane.get_group(&name)?;
        if location == known {
            let message = "replication is not supported: a group cannot leave its only location";
            return Err(Refusal::bad_request(message));
        }
        Err(no_location(&location))
    })
    .await
}

fn no_location(location: &str) -> Refusal {
    Refusal::bad_request(format!("invalid location: {location}"))
}

/// Answers with the group that a call comes to.
async fn one(
    shared: &Shared,
    bearer: Bearer,
    organization: &str,
    access: Access,
    call: impl FnOnce(&ControlPlane) -> Answer<Group> + Send + 'static,
) -> Answer<Json<GroupAnswer>> {
    let location = shared.location.clone();
    shared
        .quick(bearer, organization, access, move |plane| {
            Ok(GroupAnswer { group: GroupBody::new(call(plane)?, &location) })
        })
        .await
}

/// Shows the protection of a group and its history window.
#[utoipa::path(
    get, path = "/{name}/configuration", tag = "groups", operation_id = "getGroupConfiguration",
    responses((status = 200, description = "Done", body = GroupConfiguration), Refused, Missing),
)]
pub(super) async fn configuration(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<GroupConfiguration>> {
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            Ok(configuration_of(&plane.get_group(&name)?))
        })
        .await
}

/// Changes them. What is left out stays as it is.
#[utoipa::path(
    patch, path = "/{name}/configuration", tag = "groups", operation_id = "configureGroup",
    request_body = Option<GroupConfigurationChanges>,
    responses((status = 200, description = "Done", body = GroupConfiguration), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn configure(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    body: JsonBody,
) -> Answer<Json<GroupConfiguration>> {
    let GroupConfigurationChanges { delete_protection, history_window } = body.read()?;
    let history_window = history_window.map(|window| window.parse()).transpose()?;
    let changes = GroupChanges { delete_protection, history_window };
    shared
        .quick(bearer, &organization, Access::Full, move |plane| {
            Ok(configuration_of(&plane.configure_group(&name, changes)?))
        })
        .await
}

fn configuration_of(group: &Group) -> GroupConfiguration {
    GroupConfiguration {
        delete_protection: group.delete_protection,
        history_window: group.history_window.to_string(),
    }
}

/// Renames a group. Its databases, their host names and all tokens stay.
#[utoipa::path(
    post, path = "/{name}/rename", tag = "groups", operation_id = "renameGroup",
    request_body = RenameGroup,
    responses((status = 200, description = "Done", body = GroupAnswer), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn rename(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    body: JsonBody,
) -> Answer<Json<GroupAnswer>> {
    let RenameGroup { name: new } = body.read()?;
    one(&shared, bearer, &organization, Access::Full, move |plane| Ok(plane.rename_group(&name, &new)?)).await
}

/// Answers with the group: none is put aside for not being used.
#[utoipa::path(
    post, path = "/{name}/unarchive", tag = "groups", operation_id = "unarchiveGroup",
    responses((status = 200, description = "Done", body = GroupAnswer), Refused, Missing),
)]
pub(super) async fn unarchive(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<GroupAnswer>> {
    one(&shared, bearer, &organization, Access::Full, move |plane| Ok(plane.get_group(&name)?)).await
}

/// Does nothing: the engine is the one that is linked.
#[utoipa::path(
    post, path = "/{name}/update", tag = "groups", operation_id = "updateGroup",
    responses((status = 200, description = "Done", body = Nothing), Refused, Missing),
)]
pub(super) async fn update(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<Nothing>> {
    shared
        .quick(bearer, &organization, Access::Full, move |plane| {
            plane.get_group(&name)?;
            Ok(Nothing {})
        })
        .await
}

/// Answers at once: a group is in its location from the beginning.
#[utoipa::path(
    get, path = "/{name}/locations/{location}/wait", tag = "groups", operation_id = "waitForLocation",
    responses((status = 200, description = "Done", body = Nothing), Refused, Missing),
)]
pub(super) async fn wait_for_location(
    shared: State,
    bearer: Bearer,
    Place((organization, name, location)): Place<(String, String, String)>,
) -> Answer<Json<Nothing>> {
    let known = shared.location.clone();
    shared
        .quick(bearer, &organization, Access::ReadOnly, move |plane| {
            plane.get_group(&name)?;
            if location == known { Ok(Nothing {}) } else { Err(no_location(&location)) }
        })
        .await
}
