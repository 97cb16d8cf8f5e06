//! The cost of encryption: pages through the codec, and SQL workloads on an encrypted database compared with a plain
//! one.
//!
//! All variants alternate within each round, and the results are medians of the rounds' ratios of processor time.
//! Prints a table, and with `LITEFLEET_CHART=FILE.svg` draws a chart. `LITEFLEET_BENCH_ROUNDS` sets the number of
//! rounds, `LITEFLEET_BENCH_CIPHERS` the ciphers (names separated by commas), `LITEFLEET_BENCH_WALL` measures elapsed
//! time instead.

#![expect(clippy::unwrap_used, reason = "a failed bench panics")]
#![expect(clippy::cast_precision_loss, reason = "ratios need few significant digits")]

mod bare;
mod chart;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use litefleet::{
    Cipher, ConnectOptions, ControlPlane, CreateDatabaseInput, EncryptionKey, RemoteEncryption,
    internals::Pages, rusqlite::Connection,
};
use rustix::time::{ClockId, clock_gettime};

/// The workloads, in order of execution.
const WORKLOADS: [&str; 6] =
    ["bulk insert", "autocommit insert", "point reads", "cold count(*)", "random updates", "checkpoint"];

/// The number of operations of each kind.
#[derive(Clone, Copy)]
struct Size {
    rows: u32,
    commits: u32,
    reads: u32,
    updates: u32,
    seals: u32,
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
}

/// The duration of `run`: processor time, or elapsed time with `LITEFLEET_BENCH_WALL`.
fn time(run: impl FnOnce()) -> Duration {
    let (start, wall) = (processor_time(), std::env::var_os("LITEFLEET_BENCH_WALL").map(|_| Instant::now()));
    run();
    wall.map_or_else(|| processor_time().saturating_sub(start), |wall| wall.elapsed())
}

/// A deterministic pseudo-random generator, equal for every variant.
fn random(state: &mut u32, below: u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 8) % below + 1
}

fn one_row(connection: &Connection, sql: &str) {
    connection.query_row(sql, [], |_| Ok(())).unwrap();
}

/// Runs every workload on a new database, and returns their durations.
fn workloads(
    plane: &ControlPlane,
    name: &str,
    encryption: Option<&RemoteEncryption>,
    size: Size,
) -> Vec<Duration> {
    let mut input = CreateDatabaseInput::new(name, "default");
    let mut options = ConnectOptions::default();
    if let Some(encryption) = encryption {
        input = input.with_encryption(encryption.clone());
        options = options.encryption_key(encryption.key().clone());
    }
    plane.create_database(input).unwrap();
    let connect = |cache: u32| {
        let connection = plane.connect(name, options.clone()).unwrap();
        connection.execute_batch(&format!("PRAGMA cache_size={cache}")).unwrap();
        connection
    };
    let mut times = Vec::new();
    let text = "x".repeat(180);
    let connection = connect(2000);
    connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, s TEXT)").unwrap();
    times.push(time(|| {
        for start in (0..size.rows).step_by(1000) {
            connection.execute_batch("BEGIN").unwrap();
            let mut insert = connection.prepare_cached("INSERT INTO t(k, s) VALUES (?1, ?2)").unwrap();
            for row in start..(start + 1000).min(size.rows) {
                insert.execute((row % 97, &text)).unwrap();
            }
            connection.execute_batch("COMMIT").unwrap();
        }
    }));
    times.push(time(|| {
        let mut insert = connection.prepare("INSERT INTO t(k, s) VALUES (?1, ?2)").unwrap();
        for row in 0..size.commits {
            insert.execute((row, &text)).unwrap();
        }
    }));
    one_row(&connection, "PRAGMA wal_checkpoint(TRUNCATE)");
    drop(connection);
    let connection = connect(256);
    one_row(&connection, "SELECT max(id) FROM t");
    times.push(time(|| {
        let mut select = connection.prepare("SELECT s FROM t WHERE id = ?1").unwrap();
        let mut state = 1;
        for _ in 0..size.reads {
            select
                .query_row([random(&mut state, size.rows)], |row| Ok(row.get_ref(0)?.as_str()?.len()))
                .unwrap();
        }
    }));
    drop(connection);
    let connection = connect(256);
    times.push(time(|| one_row(&connection, "SELECT count(*) FROM t")));
    drop(connection);
    let connection = connect(2000);
    connection.execute_batch("PRAGMA wal_autocheckpoint=0").ok();
    times.push(time(|| {
        let mut update = connection.prepare("UPDATE t SET k = k + 1 WHERE id = ?1").unwrap();
        let mut state = 2;
        for _ in 0..size.updates / 100 {
            connection.execute_batch("BEGIN").unwrap();
            for _ in 0..100 {
                update.execute([random(&mut state, size.rows)]).unwrap();
            }
            connection.execute_batch("COMMIT").unwrap();
        }
    }));
    times.push(time(|| one_row(&connection, "PRAGMA wal_checkpoint(TRUNCATE)")));
    drop(connection);
    plane.destroy_database(name).unwrap();
    times
}

/// Seals and opens pages with the codec and with the bare cipher, and returns the durations per page in nanoseconds.
///
/// Pages are sealed as the VFS does: from the page cache, which does not fit into the first-level cache of the processor, into
/// one buffer. The bare cipher seals such pages in place.
fn pages(cipher: Cipher, encryption: &RemoteEncryption, count: u32) -> [f64; 4] {
    let mut codec = Pages::new(encryption, 4096).unwrap();
    let (mut plain, mut sealed) = (bare::Aligned::new(), bare::Aligned::new());
    let mut alone = bare::Bare::new(cipher);
    let mut cache: Vec<_> = (0..24).map(|_| bare::Aligned::new()).collect();
    let mut ring: Vec<_> = (0..24).map(|_| bare::Aligned::new()).collect();
    let each = |time: Duration| time.as_nanos() as f64 / f64::from(count);
    let seal = time(|| {
        for number in 0..count {
            assert!(codec.seal(2 + number % 24, cache[(number % 24) as usize].page(), sealed.page()));
        }
    });
    // Opened pages are sealed again, which is not measured.
    let mut open = Duration::ZERO;
    for _ in 0..count / 24 {
        for (number, page) in (2..).zip(&mut ring) {
            assert!(codec.seal(number, plain.page(), page.page()));
        }
        open += time(|| {
            for (number, page) in (2..).zip(&mut ring) {
                assert!(codec.open(number, page.page()));
            }
        });
    }
    let bare_seal = time(|| {
        for number in 0..count {
            alone.seal(cache[(number % 24) as usize].page());
        }
    });
    // One page at a time, as above, each under the nonce that it was sealed with.
    let mut bares: Vec<_> = (0..24).map(|_| bare::Bare::new(cipher)).collect();
    let mut bare_open = Duration::ZERO;
    for _ in 0..count / 24 {
        for (bare, page) in bares.iter_mut().zip(&mut ring) {
            bare.seal(page.page());
        }
        bare_open += time(|| {
            for (bare, page) in bares.iter_mut().zip(&mut ring) {
                bare.open(page.page());
            }
        });
    }
    [each(seal), each(open), each(bare_seal), each(bare_open)]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let smoke = std::env::var_os("LITEFLEET_BENCH_SMOKE").is_some();
    let number = |name: &str, otherwise: usize| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let rounds = if smoke { 1 } else { number("LITEFLEET_BENCH_ROUNDS", 7) };
    let size = if smoke {
        Size { rows: 2000, commits: 20, reads: 100, updates: 200, seals: 240 }
    } else {
        Size { rows: 120_000, commits: 2000, reads: 30_000, updates: 20_000, seals: 24_000 }
    };
    let chosen = std::env::var("LITEFLEET_BENCH_CIPHERS").unwrap_or_default();
    let ciphers: Vec<Cipher> = Cipher::ALL
        .iter()
        .copied()
        .filter(|cipher| chosen.is_empty() || chosen.split(',').any(|name| name == cipher.as_str()))
        .collect();
    let encryptions: Vec<_> = ciphers
        .iter()
        .map(|cipher| RemoteEncryption::new(EncryptionKey::generate(*cipher).unwrap(), *cipher).unwrap())
        .collect();

    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let plane = ControlPlane::open(dir.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    // By cipher: the ratios of every workload, and the durations per page, of each round.
    let mut ratios = vec![vec![Vec::new(); WORKLOADS.len()]; ciphers.len()];
    let mut nanos = vec![[const { Vec::new() }; 4]; ciphers.len()];
    for round in 0..rounds {
        let plain = workloads(&plane, "plain", None, size);
        for (at, encryption) in encryptions.iter().enumerate() {
            let sealed = workloads(&plane, &format!("sealed-{at}"), Some(encryption), size);
            for (of, (sealed, plain)) in sealed.iter().zip(&plain).enumerate() {
                ratios[at][of].push(sealed.as_secs_f64() / plain.as_secs_f64().max(1e-9));
            }
            for (into, nanos) in nanos[at].iter_mut().zip(pages(ciphers[at], encryption, size.seals)) {
                into.push(nanos);
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }

    let mut table = String::from("| cipher | by | seal GB/s | open GB/s | to the bare crate |");
    for workload in WORKLOADS {
        let _never_fails = write!(table, " {workload} |");
    }
    table += "\n|---|---|---:|---:|---:|";
    table += &"---:|".repeat(WORKLOADS.len());
    let mut bars = Vec::new();
    for (at, cipher) in ciphers.iter().enumerate() {
        let [sealed, opened, bare_seal, bare_open] =
            std::mem::take(&mut nanos[at]).map(|rounds| rounds.into_iter().fold(f64::MAX, f64::min));
        let _never_fails = write!(
            table,
            "\n| {cipher} | {} | {:.1} | {:.1} | {:.2} ×, {:.2} × |",
            cipher.implementation(),
            4096.0 / sealed,
            4096.0 / opened,
            bare_seal / sealed,
            bare_open / opened
        );
        let medians: Vec<_> = std::mem::take(&mut ratios[at]).into_iter().map(median).collect();
        for ratio in &medians {
            let _never_fails = write!(table, " {ratio:.2} × |");
        }
        bars.push(chart::Row {
            name: cipher.as_str(),
            speed: [4096.0 / sealed, 4096.0 / opened],
            ratios: medians,
        });
    }
    println!("{table}");
    if let Some(path) = std::env::var_os("LITEFLEET_CHART") {
        std::fs::write(path, chart::draw(&WORKLOADS, &bars)).unwrap();
    }
}
