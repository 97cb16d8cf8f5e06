//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Runs a fleet of SQLite databases in a directory.
#[derive(Debug, Parser)]
#[command(name = "litefleet", version, max_term_width = 110)]
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

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Groups of databases.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Databases.
    #[command(subcommand)]
    Db(DbCommand),
    /// Create, fork, import and query databases in a fleet of its own, and show each step.
    Tour,
    /// Print a script that completes commands in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Create a group.
    Create { name: String },
    /// List the groups.
    List,
    /// Show a group.
    Show { name: String },
    /// Turn a group's delete protection on or off.
    Protect {
        name: String,
        /// Whether to refuse destroying the group and any database in it.
        #[arg(action = clap::ArgAction::Set, default_value_t = true)]
        on: bool,
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
    Create(CreateArguments),
    /// List the databases.
    List {
        /// Only those of this group.
        #[arg(long)]
        group: Option<String>,
        /// Only forks of this database.
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
    },
    /// Run SQL on a database, or open an interactive shell.
    Shell {
        name: String,
        /// The SQL to run; without it, standard input is read.
        sql: Option<String>,
        /// Refuse writes.
        #[arg(long)]
        read_only: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    pub(crate) name: String,
    /// The group to create it in; a fork takes the group of its source.
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Fork this database.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from_file", "draft"])]
    pub(crate) from_db: Option<String>,
    /// Import this SQLite file; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "draft")]
    pub(crate) from_file: Option<PathBuf>,
    /// Create a draft that waits for `db upload`.
    #[arg(long)]
    pub(crate) draft: bool,
    /// The largest size it may grow to: bytes, or with a unit, such as 256kb, 100mb, 1gb.
    #[arg(long, value_name = "SIZE")]
    pub(crate) size_limit: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    pub(crate) name: String,
    /// The largest size it may grow to, or `none`.
    #[arg(long, value_name = "SIZE")]
    pub(crate) size_limit: Option<String>,
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
