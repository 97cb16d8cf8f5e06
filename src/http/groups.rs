//! The groups of the fleet.

use axum::Json;

use super::{
    Shared, State,
    access::Access,
    body::{
        CreateGroup, GroupAnswer, GroupBody, GroupConfiguration, GroupConfigurationChanges, GroupsAnswer,
        Nothing, RenameGroup,
    },
    refusal::{Answer, Refusal},
    request::{Bearer, JsonBody, Place},
    work::Load,
};
use crate::{ControlPlane, Group, HistoryWindow};

pub(super) async fn list(
    shared: State,
    bearer: Bearer,
    Place(organization): Place<String>,
) -> Answer<Json<GroupsAnswer>> {
    let location = shared.location.clone();
    shared
        .manage(Load::Quick, bearer, &organization, Access::ReadOnly, move |plane, _| {
            let groups = plane.list_groups()?;
            let groups = groups.into_iter().map(|group| GroupBody::new(group, &location)).collect();
            Ok(Json(GroupsAnswer { groups }))
        })
        .await
}

/// The location that clients must name is not looked at: there is one.
pub(super) async fn create(
    shared: State,
    bearer: Bearer,
    Place(organization): Place<String>,
    body: JsonBody,
) -> Answer<Json<GroupAnswer>> {
    let CreateGroup { name } = body.read()?;
    one(&shared, bearer, &organization, Access::Full, move |plane| Ok(plane.create_group(&name)?)).await
}

pub(super) async fn show(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<GroupAnswer>> {
    one(&shared, bearer, &organization, Access::ReadOnly, move |plane| Ok(plane.get_group(&name)?)).await
}

pub(super) async fn destroy(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<GroupAnswer>> {
    one(&shared, bearer, &organization, Access::Full, move |plane| {
        let group = plane.get_group(&name)?;
        plane.destroy_group(&name)?;
        Ok(group)
    })
    .await
}

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
        .manage(Load::Quick, bearer, organization, access, move |plane, _| {
            Ok(Json(GroupAnswer { group: GroupBody::new(call(plane)?, &location) }))
        })
        .await
}

pub(super) async fn configuration(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<GroupConfiguration>> {
    shared
        .manage(Load::Quick, bearer, &organization, Access::ReadOnly, move |plane, _| {
            Ok(Json(configuration_of(&plane.get_group(&name)?)))
        })
        .await
}

pub(super) async fn configure(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    body: JsonBody,
) -> Answer<Json<GroupConfiguration>> {
    let GroupConfigurationChanges { delete_protection, history_window } = body.read()?;
    let window = history_window.map(|window| window.parse::<HistoryWindow>()).transpose()?;
    shared
        .manage(Load::Quick, bearer, &organization, Access::Full, move |plane, _| {
            if let Some(protect) = delete_protection {
                plane.protect_group(&name, protect)?;
            }
            if let Some(window) = window {
                plane.set_group_history_window(&name, window)?;
            }
            Ok(Json(configuration_of(&plane.get_group(&name)?)))
        })
        .await
}

fn configuration_of(group: &Group) -> GroupConfiguration {
    GroupConfiguration {
        delete_protection: group.delete_protection,
        history_window: group.history_window.to_string(),
    }
}

pub(super) async fn rename(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    body: JsonBody,
) -> Answer<Json<GroupAnswer>> {
    let RenameGroup { name: new } = body.read()?;
    one(&shared, bearer, &organization, Access::Full, move |plane| Ok(plane.rename_group(&name, &new)?)).await
}

/// Clients ask for a group that was put aside for not being used. None is.
pub(super) async fn unarchive(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<GroupAnswer>> {
    one(&shared, bearer, &organization, Access::Full, move |plane| Ok(plane.get_group(&name)?)).await
}

/// Clients ask for the newest version of the engine. It is the one that is linked.
pub(super) async fn update(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
) -> Answer<Json<Nothing>> {
    shared
        .manage(Load::Quick, bearer, &organization, Access::Full, move |plane, _| {
            plane.get_group(&name)?;
            Ok(Json(Nothing {}))
        })
        .await
}

/// Clients that have added a location wait until the group is there. It is in the one location from the beginning.
pub(super) async fn wait_for_location(
    shared: State,
    bearer: Bearer,
    Place((organization, name, location)): Place<(String, String, String)>,
) -> Answer<Json<Nothing>> {
    let known = shared.location.clone();
    shared
        .manage(Load::Quick, bearer, &organization, Access::ReadOnly, move |plane, _| {
            plane.get_group(&name)?;
            if location == known { Ok(Json(Nothing {})) } else { Err(no_location(&location)) }
        })
        .await
}
