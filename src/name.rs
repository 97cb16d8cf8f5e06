//! Names of groups and databases: checked once when parsed, and safe as path components ever after.

use std::{fmt, str::FromStr};

use crate::error::{Error, ErrorKind, Result};

/// The longest name, in bytes (which are characters here).
pub const NAME_LEN_MAX: usize = 64;

/// Says what is wrong with `name` as the name of a `noun`, if anything is.
///
/// The rule is that of Turso's Create Database page: "only lowercase letters, numbers, dashes. No longer than
/// 64 characters".
fn check(noun: &str, name: &str) -> Result<()> {
    let complaint = if name.is_empty() || name.len() > NAME_LEN_MAX {
        "name must contain between 1 and 64 characters"
    } else if !name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
        "name can only contain lowercase letters, numbers, and hyphens"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Invalid, format!("invalid {noun} name: {complaint}")))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                check($noun, name)?;
                Ok(Self(name.into()))
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The name of a group: 1 to 64 of `a`–`z`, `0`–`9` and `-`, unique in its root.
    GroupName, "group"
}
name! {
    /// The name of a database: 1 to 64 of `a`–`z`, `0`–`9` and `-`, unique in its root.
    DatabaseName, "database"
}

/// The directory of a group, in its root. A group that is renamed keeps its directory, so this is the name that it was
/// created under; or, where something else had a directory of that name, the name and the group's id, with a dot between
/// them that no name can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupDir(Box<str>);

impl GroupDir {
    /// That of a group that is created under this name.
    pub(crate) fn of(name: &GroupName) -> Self {
        Self(name.0.clone())
    }

    /// That of the group with this id, where the one of its name is taken.
    pub(crate) fn apart(name: &GroupName, uuid: &str) -> Self {
        Self(format!("{name}.{uuid}").into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupDir {
    type Err = Error;

    fn from_str(dir: &str) -> Result<Self> {
        let (name, uuid) = dir.split_once('.').map_or((dir, None), |(name, uuid)| (name, Some(uuid)));
        // An id is of the same characters as a name.
        check("group", name).and(uuid.map_or(Ok(()), |uuid| check("group", uuid))).map_err(|_| {
            Error::new(ErrorKind::Corrupt, format!("control.db has {dir:?} for a group's directory"))
        })?;
        Ok(Self(dir.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_path_components_are_names() {
        for good in ["a", "0", "-", "orders-2026", &"x".repeat(64)] {
            assert_eq!(good.parse::<DatabaseName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "A", "a_b", "a b", "ü", "a\0", ".staging", "a.db", &"x".repeat(65)]
        {
            let error = bad.parse::<GroupName>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
            assert!(error.to_string().starts_with("invalid group name: name "), "{error}");
        }
    }

    #[test]
    fn the_directory_of_a_group_is_a_safe_path_component_too() {
        let name: GroupName = "eu".parse().unwrap();
        let apart = GroupDir::apart(&name, "019a0000-0000-7000-8000-000000000000");
        assert!(apart.as_str().parse::<GroupName>().is_err());
        for good in [GroupDir::of(&name), apart] {
            assert_eq!(good.as_str().parse::<GroupDir>().unwrap(), good);
        }
        for bad in ["", ".", "..", ".trash", "eu.", "eu/a", "../eu", "eu./a", "eu.a.b", "eu\0"] {
            assert_eq!(bad.parse::<GroupDir>().unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }
}
