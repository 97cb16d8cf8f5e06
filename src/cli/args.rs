//! What can be said on the command line.

use std::{path::PathBuf, sync::LazyLock};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use litefleet::Cipher;

use super::keys::{KeyArguments, Secret};

/// Runs a fleet of SQLite databases in a directory.
#[derive(Debug, Parser)]
#[command(name = "litefleet", version, long_version = VERSION.as_str(), max_term_width = 110)]
pub(crate) struct Arguments {
    /// The directory of the fleet.
    #[arg(long, env = "LITEFLEET_ROOT", default_value = "fleet", global = true, value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// Print JSON, and errors as JSON too.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The version, and what runs each cipher in this build on this processor.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let implementations =
        Cipher::ALL.iter().map(|cipher| format!("\n{cipher:>17}: {}", cipher.implementation()));
    env!("CARGO_PKG_VERSION").to_owned() + &implementations.collect::<String>()
});

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Groups of databases.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Databases.
    #[command(subcommand)]
    Db(DbCommand),
    /// Serve the Platform API over HTTP.
    #[cfg(feature = "http")]
    Serve(ServeArguments),
    /// Make a new catalog for a fleet whose `control.db` is lost, from the descriptions beside its databases. Stop every
    /// program that uses the fleet first.
    Recover,
    /// Create, fork, import and query databases in a fleet of its own, and show each step.
    Tour,
    /// Print a script that completes commands in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// How to serve.
#[cfg(feature = "http")]
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Where to listen: an address or a host name with a port, or `:PORT` for all addresses of this machine. Port 0 takes one
    /// that is free.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: Listen,
    /// The domain of the databases' host names; without it `localhost` and the port.
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// The one name of the organization that is answered to; without it any.
    #[arg(long, value_name = "SLUG")]
    pub(crate) organization: Option<String>,
    /// Ask for no tokens. Only on a loopback address.
    #[arg(long)]
    pub(crate) no_tokens: bool,
    /// Serve over TLS with this chain of certificates, in PEM. SIGHUP reads it and the key anew.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// The key of the certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,
    /// How often to maintain every database, one after the other: such as 30m, 1h or 1d. 0 turns it off.
    #[arg(long, value_name = "PERIOD", default_value = "1h")]
    pub(crate) maintain_every: Period,
    /// How many connections may be open. Unless given, half of the files that the process may open, and at most 4096.
    #[arg(long, value_name = "N")]
    pub(crate) max_connections: Option<usize>,
    /// How many connections one peer may have open; 0 for no bound, as behind a proxy. Unless given, a quarter of all, and no
    /// bound for this machine itself.
    #[arg(long, value_name = "N")]
    pub(crate) max_connections_per_peer: Option<usize>,
    /// What to tell on standard error: `error` for failures of the server, `info` for each request and for its start and stop.
    /// With `--json` as JSON. Unless given, the environment variable `RUST_LOG` decides, and without it `error`.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<LogLevel>,
}

/// Where a server is to listen.
#[cfg(feature = "http")]
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    /// `None` for all addresses of the machine.
    pub(crate) host: Option<String>,
    pub(crate) port: u16,
}

#[cfg(feature = "http")]
impl std::str::FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const REFUSED: &str = "an address or a host name and a port, such as 127.0.0.1:8080, [::1]:8080, localhost:8080 or :8080";
        let (host, port) = text.rsplit_once(':').ok_or(REFUSED)?;
        let port = port.parse().map_err(|_| REFUSED)?;
        // The colons of an IPv6 address are no separators.
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address,
            None if host.contains(':') => return Err(REFUSED),
            None => host,
        };
        Ok(Self { host: Some(host.to_owned()).filter(|host| !host.is_empty()), port })
    }
}

/// How often something is to be done. `None` stands for never.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period(pub(crate) Option<std::time::Duration>);

#[cfg(feature = "http")]
impl std::str::FromStr for Period {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let period: litefleet::Retention =
            text.parse().map_err(|_| "a number with a unit, such as 30m, 1h or 1d, or 0")?;
        Ok(Self(Some(std::time::Duration::from_secs(period.seconds())).filter(|period| !period.is_zero())))
    }
}

/// How much to tell of what is served.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Info,
    Debug,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Create a group.
    Create { name: String },
    /// List the groups.
    List,
    /// Show a group.
    Show { name: String },
    /// Rename a group. Nothing is moved, and connections to its databases stay open.
    Rename {
        name: String,
        /// The new name.
        new: String,
    },
    /// Turn a group's delete protection on or off.
    Protect {
        name: String,
        /// Whether to refuse destroying the group and any database in it.
        #[arg(action = clap::ArgAction::Set, default_value_t = true)]
        on: bool,
    },
    /// Set how long back a group's databases can be restored; without a window, show it.
    HistoryWindow {
        name: String,
        /// Such as 24h, 7d or 90m, or `off`. A database may have its own: see `db config`.
        window: Option<String>,
    },
    /// Destroy a group and every database in it.
    Destroy {
        name: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Create a database: empty, from another one, or from a SQLite file.
    Create(Box<CreateArguments>),
    /// List the databases.
    List {
        /// Only those of this group.
        #[arg(long)]
        group: Option<String>,
        /// Only forks of this database, by its name or its id.
        #[arg(long, value_name = "NAME")]
        parent: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        /// Only those whose name comes after this one.
        #[arg(long, value_name = "NAME")]
        after: Option<String>,
    },
    /// Show a database.
    Show { name: String },
    /// Change a database's configuration; without an option, show it.
    Config(ConfigArguments),
    /// Destroy a database.
    Destroy {
        name: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Complete a draft with a SQLite file.
    Upload {
        name: String,
        /// The file; `-` reads standard input.
        file: PathBuf,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// Write a database to a file of its own, which must not be there yet.
    Export {
        name: String,
        file: PathBuf,
        /// As a plain SQLite file, although the database is encrypted.
        #[arg(long, conflicts_with = "page_format")]
        decrypt: bool,
        /// Encrypted under the same key, in this page format: native or turso.
        #[arg(long, value_name = "FORMAT")]
        page_format: Option<String>,
        /// As it was at this instant.
        #[arg(long, value_name = "INSTANT")]
        timestamp: Option<String>,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// List the instants that a database can be restored to.
    Points {
        name: String,
        /// Only commits at or after this instant.
        #[arg(long, value_name = "INSTANT")]
        from: Option<String>,
        /// Only commits at or before this instant.
        #[arg(long, value_name = "INSTANT")]
        to: Option<String>,
    },
    /// Make a database what it was at an instant. It can be undone.
    Restore {
        name: String,
        /// The instant, in RFC 3339 or in UTC: 2026-01-31T12:00:00Z or "2026-01-31 12:00".
        #[arg(long, value_name = "INSTANT")]
        timestamp: String,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// Check a database and its whole history, and change nothing; with a key, the tag of every page of an encrypted one.
    /// The exit code is 1 if anything is not as it was written.
    Verify {
        name: String,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// Make snapshots that are due, remove what no history window needs, and compress logs that no restore to the last day needs.
    Maintain {
        /// Only this database.
        name: Option<String>,
    },
    /// Run SQL on a database, or open an interactive shell.
    Shell {
        name: String,
        /// The SQL to run; without it, standard input is read.
        #[arg(allow_hyphen_values = true, value_parser = sql)]
        sql: Option<String>,
        /// Refuse writes.
        #[arg(long)]
        read_only: bool,
        /// As it was at this instant, to be read.
        #[arg(long, value_name = "INSTANT")]
        timestamp: Option<String>,
        #[command(flatten)]
        key: KeyArguments,
    },
}

impl DbCommand {
    /// The key of the one database that the command is about. `db create` may need two.
    pub(crate) fn key(&self) -> Option<&KeyArguments> {
        match self {
            Self::Upload { key, .. }
            | Self::Export { key, .. }
            | Self::Restore { key, .. }
            | Self::Verify { key, .. }
            | Self::Shell { key, .. } => Some(key),
            _ => None,
        }
    }
}

/// SQL may begin with a comment. One without a space in it is rather an option that there is not.
fn sql(text: &str) -> Result<String, &'static str> {
    if text.starts_with('-') && !text.contains(char::is_whitespace) {
        return Err("there is no such option");
    }
    Ok(text.to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    pub(crate) name: String,
    /// The group to create it in. A fork takes the group of its source; otherwise it may be left out if there is only one.
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Fork this database.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from_file", "draft"])]
    pub(crate) from_db: Option<String>,
    /// As it was at this instant, in RFC 3339 or in UTC: 2026-01-31T12:00:00Z or "2026-01-31 12:00". See `db points`.
    #[arg(long, value_name = "INSTANT", requires = "from_db")]
    pub(crate) timestamp: Option<String>,
    /// Import this SQLite file; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "draft")]
    pub(crate) from_file: Option<PathBuf>,
    /// Create a draft that waits for `db upload`.
    #[arg(long)]
    pub(crate) draft: bool,
    /// The largest size it may grow to: bytes, or with a unit, such as 256kb, 100mb, 1gb.
    #[arg(long, value_name = "SIZE")]
    pub(crate) size_limit: Option<String>,
    /// Encrypt it under this cipher: aes256gcm, aes128gcm, chacha20poly1305, aegis128l, aegis128x2, aegis128x4,
    /// aegis256, aegis256x2 or aegis256x4. A fork takes the cipher of its source.
    #[arg(long, value_name = "CIPHER", visible_alias = "encryption-cipher")]
    pub(crate) remote_encryption_cipher: Option<String>,
    /// The page format of an encrypted database: native, or turso for exchange with Turso's engine.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) page_format: Option<String>,
    #[command(flatten)]
    pub(crate) key: KeyArguments,
    /// The key of an encrypted source, if it is not that of the new database, as base64; or in the environment, as
    /// `LITEFLEET_SOURCE_ENCRYPTION_KEY`.
    #[arg(long, value_name = "BASE64")]
    pub(super) source_encryption_key: Option<Secret>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    pub(crate) name: String,
    /// The largest size it may grow to, or `none`.
    #[arg(long, value_name = "SIZE")]
    pub(crate) size_limit: Option<String>,
    /// How long back it can be restored: such as 24h, 7d or 90m, `off`, or `default` for that of its group.
    #[arg(long, value_name = "WINDOW")]
    pub(crate) history_window: Option<String>,
    /// Refuse reads.
    #[arg(long, value_name = "BOOL")]
    pub(crate) block_reads: Option<bool>,
    /// Refuse writes.
    #[arg(long, value_name = "BOOL")]
    pub(crate) block_writes: Option<bool>,
    /// Refuse destroying it.
    #[arg(long, value_name = "BOOL")]
    pub(crate) delete_protection: Option<bool>,
}
