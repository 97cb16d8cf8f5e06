//! Refusals of the fence.

use std::fmt;

/// Why the fence refused a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fenced {
    /// `ATTACH` of a path, or of a name that is not a literal.
    Attach,
    /// A file name that SQLite may parse as a URI, in `ATTACH` or `VACUUM INTO`.
    Uri,
    /// A file in the directory of a fleet.
    FleetFile,
    /// A pragma with a value.
    Pragma(String),
    /// A function of SQL.
    Function,
}

impl fmt::Display for Fenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach => f.write_str(
                "ATTACH accepts only '' and ':memory:' on this connection; attach a database of the fleet by its name with \
                 ControlPlane::attach (.attach NAME in the shell), or open the connection with ConnectOptions::unfenced",
            ),
            Self::Uri => f.write_str(
                "ATTACH and VACUUM INTO accept no URI on this connection; name a plain path in VACUUM INTO, or open the \
                 connection with ConnectOptions::unfenced",
            ),
            Self::FleetFile => f.write_str(
                "the file is in the directory of a fleet; attach a database of the fleet by its name with \
                 ControlPlane::attach (.attach NAME in the shell), and VACUUM INTO a file elsewhere",
            ),
            Self::Pragma(name) => write!(
                f,
                "PRAGMA {name} cannot be set on this connection; open it with ConnectOptions::unfenced to do so"
            ),
            Self::Function => f.write_str("the SQL function is disabled on this connection"),
        }
    }
}
