//! Names of groups and databases, validated when parsed and therefore safe as path components.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use crate::error::{Error, ErrorKind, Result};

/// The maximum length of a name in bytes. Names are ASCII, so this is also the maximum number of characters.
pub const NAME_LEN_MAX: usize = 64;

/// Validates `name` as the name of a `noun`.
///
/// Turso's Create Database page defines the rule: "only lowercase letters, numbers, dashes. No longer than 64 characters".
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
            /// Returns the name as a string slice.
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

        impl Deref for $type {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // Sound for maps: the derived `Eq`, `Ord` and `Hash` are those of `str`.
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                *self.0 == *other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                *self.0 == **other
            }
        }

        impl PartialEq<$type> for str {
            fn eq(&self, other: &$type) -> bool {
                *self == *other.0
            }
        }

        impl PartialEq<$type> for &str {
            fn eq(&self, other: &$type) -> bool {
                **self == *other.0
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.into()
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
    /// The name of a group: 1 to 64 characters of `a`–`z`, `0`–`9` and `-`, unique in its root.
    GroupName, "group"
}
name! {
    /// The name of a database: 1 to 64 characters of `a`–`z`, `0`–`9` and `-`, unique in its root.
    ///
    /// ```
    /// let name: litefleet::DatabaseName = "orders-2026".parse()?;
    /// assert_eq!(name, "orders-2026");
    /// assert!(name.starts_with("orders"));
    /// assert!("Orders".parse::<litefleet::DatabaseName>().is_err());
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    DatabaseName, "database"
}

/// The name of a group's directory in the root.
///
/// A renamed group keeps its directory, so this is the name under which the group was created. If a directory of that name
/// already existed, it is the name and the group's id separated by a dot, which no name can contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupDir(Box<str>);

impl GroupDir {
    /// The directory of a group created under `name`.
    pub(crate) fn of(name: &GroupName) -> Self {
        Self(name.0.clone())
    }

    /// The directory of a group created under `name` if the directory of that name is taken.
    pub(crate) fn with_id(name: &GroupName, id: &str) -> Self {
        Self(format!("{name}.{id}").into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupDir {
    type Err = Error;

    fn from_str(dir: &str) -> Result<Self> {
        let (name, id) = dir.split_once('.').map_or((dir, None), |(name, id)| (name, Some(id)));
        // Ids and names use one alphabet.
        check("group", name).and(id.map_or(Ok(()), |id| check("group", id))).map_err(|_| {
            Error::new(ErrorKind::Corrupt, format!("control.db has {dir:?} for a group's directory"))
        })?;
        Ok(Self(dir.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_path_components() {
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
    fn names_compare_with_str_and_are_found_by_it() {
        let name: DatabaseName = "orders".parse().unwrap();
        assert_eq!(name, "orders");
        assert_eq!(name, *"orders");
        assert_eq!("orders", name);
        assert_ne!(name, "order");
        let names = std::collections::HashMap::from([(name.clone(), 1)]);
        assert_eq!(names.get("orders"), Some(&1));
        assert_eq!(std::collections::BTreeSet::from([name]).get("orders").map(|name| name.len()), Some(6));
    }

    #[test]
    fn group_directories_are_safe_path_components() {
        let name: GroupName = "eu".parse().unwrap();
        let with_id = GroupDir::with_id(&name, "019a0000-0000-7000-8000-000000000000");
        assert!(with_id.as_str().parse::<GroupName>().is_err());
        for good in [GroupDir::of(&name), with_id] {
            assert_eq!(good.as_str().parse::<GroupDir>().unwrap(), good);
        }
        for bad in ["", ".", "..", ".trash", "eu.", "eu/a", "../eu", "eu./a", "eu.a.b", "eu\0"] {
            assert_eq!(bad.parse::<GroupDir>().unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }
}
