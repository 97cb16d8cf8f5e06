//! The arguments of the command line.

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use litefleet::Cipher;

use super::keys::{KeyArguments, Secret};

/// Manages a fleet of SQLite databases in a directory.
#[derive(Debug, Parser)]
#[command(name = "litefleet", version, long_version = VERSION.as_str(), max_term_width = 110)]
pub(crate) struct Arguments {
    /// The directory of the fleet.
    #[arg(
        long,
        env = "LITEFLEET_ROOT",
        hide_env_values = true,
        default_value = "fleet",
        global = true,
        value_name = "DIR"
    )]
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
    /// Rebuild the catalog of a fleet whose `control.db` is lost, from the descriptions beside its databases. Stop every
    /// program that uses the fleet first.
    Recover,
    /// Create, fork, import, encrypt and restore databases in a temporary fleet, and show each step.
    Tour,
    /// Measure this machine: the nine ciphers, and commits per second on the disk of the fleet. The fleet need not exist.
    Bench {
        /// How long to measure.
        #[arg(long, value_name = "SECONDS", default_value = "10")]
        seconds: Seconds,
    },
    /// Print a script that completes commands in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the man page, or write a page for each command into a directory.
    Man {
        /// The directory, which must exist. Without it the page of the program is printed.
        dir: Option<PathBuf>,
    },
}

/// A duration of up to an hour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds(pub(crate) Duration);

impl std::str::FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
        seconds.map(|seconds| Self(Duration::from_secs_f64(seconds))).ok_or("a number from 0.1 to 3600")
    }
}

/// The flags of `serve`. Each can be given in the environment too, as `LITEFLEET_` and its name.
#[cfg(feature = "http")]
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The address to listen on: an address or a host name with a port, or `:PORT` for all addresses of this machine. Port 0
    /// picks a free port.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        env = "LITEFLEET_LISTEN",
        hide_env_values = true
    )]
    pub(crate) listen: Listen,
    /// The domain of the databases' host names. Default: `localhost` with the port.
    #[arg(long, env = "LITEFLEET_DOMAIN", hide_env_values = true)]
    pub(crate) domain: Option<String>,
    /// The only organization name that is accepted. Default: any.
    #[arg(long, value_name = "SLUG", env = "LITEFLEET_ORGANIZATION", hide_env_values = true)]
    pub(crate) organization: Option<String>,
    /// Require no tokens. Only on a loopback address.
    #[arg(long, env = "LITEFLEET_NO_TOKENS", hide_env_values = true, value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) no_tokens: bool,
    /// Serve over TLS with this certificate chain, in PEM. SIGHUP reloads it and the key.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        env = "LITEFLEET_TLS_CERTIFICATE",
        hide_env_values = true
    )]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_certificate",
        env = "LITEFLEET_TLS_KEY",
        hide_env_values = true
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// How often to maintain every database, such as 30m, 1h or 1d. 0 turns maintenance off.
    #[arg(
        long,
        value_name = "PERIOD",
        default_value = "1h",
        env = "LITEFLEET_MAINTAIN_EVERY",
        hide_env_values = true
    )]
    pub(crate) maintain_every: Period,
    /// The maximum number of open connections. Default: half of the process's limit of open files, at most 4096.
    #[arg(long, value_name = "N", env = "LITEFLEET_MAX_CONNECTIONS", hide_env_values = true)]
    pub(crate) max_connections: Option<usize>,
    /// The maximum number of open connections of one peer; 0 for no limit, as behind a proxy. Default: a quarter of all, and
    /// no limit for this machine.
    #[arg(long, value_name = "N", env = "LITEFLEET_MAX_CONNECTIONS_PER_PEER", hide_env_values = true)]
    pub(crate) max_connections_per_peer: Option<usize>,
    /// What to log on standard error: `error` for failures of the server, `info` for each request, start and stop too. With
    /// `--json` as JSON. Default: the environment variable `RUST_LOG`, otherwise `error`.
    #[arg(long, value_name = "LEVEL", env = "LITEFLEET_LOG", hide_env_values = true)]
    pub(crate) log: Option<LogLevel>,
}

/// The address that a server listens on.
#[cfg(feature = "http")]
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    /// `None` for all addresses of this machine.
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
        // An IPv6 address contains colons.
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address,
            None if host.contains(':') => return Err(REFUSED),
            None => host,
        };
        Ok(Self { host: Some(host.to_owned()).filter(|host| !host.is_empty()), port })
    }
}

/// A period, or `None` for never.
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

/// How much a server logs.
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
    /// Rename a group. No file moves, and connections to its databases stay open.
    Rename {
        name: String,
        /// The new name.
        new: String,
    },
    /// Turn the delete protection of a group on or off.
    Protect {
        name: String,
        /// Whether to refuse the destruction of the group and of any database in it.
        #[arg(action = clap::ArgAction::Set, default_value_t = true)]
        on: bool,
    },
    /// Set how far back a group's databases can be restored; without a window, show it.
    HistoryWindow {
        name: String,
        /// A period such as 24h, 7d or 90m, or `off`. A database can have its own: see `db config`.
        window: Option<String>,
    },
    /// Limit the size of the history of each of a group's databases; without a limit, show it.
    HistoryLimit {
        name: String,
        /// A size such as 256mb or 1gb, or `none`. A database can have its own: see `db config`.
        limit: Option<String>,
    },
    /// Destroy a group and every database in it.
    Destroy {
        name: String,
        /// Do not ask for confirmation.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Create a database: empty, forked from another one, or imported from a SQLite file.
    Create(Box<CreateArguments>),
    /// List the databases.
    List {
        /// Only databases of this group.
        #[arg(long)]
        group: Option<String>,
        /// Only forks of this database, given by name or id.
        #[arg(long, value_name = "NAME")]
        parent: Option<String>,
        /// At most this many.
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        /// Only databases whose name follows this one.
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
        /// Do not ask for confirmation.
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
    /// Write a database to a new file.
    Export {
        name: String,
        file: PathBuf,
        /// Write a plain SQLite file of an encrypted database.
        #[arg(long, conflicts_with = "page_format")]
        decrypt: bool,
        /// Seal the pages under the same key in this page format: native or turso.
        #[arg(long, value_name = "FORMAT")]
        page_format: Option<String>,
        /// As of this instant.
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
    /// Restore a database in place to an instant. This can be undone.
    Restore {
        name: String,
        /// The instant, in RFC 3339 or in UTC: 2026-01-31T12:00:00Z or "2026-01-31 12:00".
        #[arg(long, value_name = "INSTANT")]
        timestamp: String,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// Check a database and its whole history; with a key, also the tag of every page. Changes nothing. The exit code is 1 if
    /// there are findings.
    Verify {
        name: String,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// Take due snapshots, remove what no history window needs or a history limit excludes, and compress logs that no restore to the last day reads.
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
        /// Open the database read-only, as of this instant.
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
    /// The group to create it in. Default: the group of the source of a fork, or the only group.
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Fork this database.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from_file", "draft"])]
    pub(crate) from_db: Option<String>,
    /// As of this instant, in RFC 3339 or in UTC: 2026-01-31T12:00:00Z or "2026-01-31 12:00". See `db points`.
    #[arg(long, value_name = "INSTANT", requires = "from_db")]
    pub(crate) timestamp: Option<String>,
    /// Import this SQLite file; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "draft")]
    pub(crate) from_file: Option<PathBuf>,
    /// Create a draft that waits for `db upload`.
    #[arg(long)]
    pub(crate) draft: bool,
    /// The size limit: bytes, or with a unit, such as 256kb, 100mb, 1gb.
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
    /// The key of an encrypted source as base64, if it differs from that of the new database. Prefer the environment variable
    /// `LITEFLEET_SOURCE_ENCRYPTION_KEY`.
    #[arg(long, value_name = "BASE64")]
    pub(super) source_encryption_key: Option<Secret>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    pub(crate) name: String,
    /// The size limit, or `none`.
    #[arg(long, value_name = "SIZE")]
    pub(crate) size_limit: Option<String>,
    /// How far back it can be restored: such as 24h, 7d or 90m, `off`, or `default` for that of its group.
    #[arg(long, value_name = "WINDOW")]
    pub(crate) history_window: Option<String>,
    /// The largest size of its history: such as 256mb or 1gb, `none`, or `default` for that of its group.
    #[arg(long, value_name = "SIZE")]
    pub(crate) history_limit: Option<String>,
    /// Refuse reads.
    #[arg(long, value_name = "BOOL")]
    pub(crate) block_reads: Option<bool>,
    /// Refuse writes.
    #[arg(long, value_name = "BOOL")]
    pub(crate) block_writes: Option<bool>,
    /// Refuse its destruction.
    #[arg(long, value_name = "BOOL")]
    pub(crate) delete_protection: Option<bool>,
}
