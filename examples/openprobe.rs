//! probe
use litefleet::*;
use std::time::Instant;
fn main() {
    let dir = tempfile::Builder::new().tempdir_in("target/tmp").unwrap();
    let plane = ControlPlane::open(dir.path().join("root")).unwrap();
    plane.create_group("default").unwrap();
    let keyed = std::env::var_os("KEYED").is_some();
    let key = EncryptionKey::from_bytes(&[7; 32]).unwrap();
    let options = || {
        let o = ConnectOptions::default();
        if keyed { o.encryption_key(EncryptionKey::from_bytes(&[7; 32]).unwrap()) } else { o }
    };
    for i in 0..50 {
        let mut input = CreateDatabaseInput::new(format!("d{i}"), "default");
        if keyed {
            input = input.with_encryption(RemoteEncryption::new(key.clone(), Cipher::Aegis256).unwrap());
        }
        plane.create_database(input).unwrap();
        if std::env::var_os("NOHIST").is_some() {
            plane
                .configure_database(
                    &format!("d{i}"),
                    DatabaseChanges::default().history_window("0s".parse().unwrap()),
                )
                .unwrap();
        }
        let c = plane.connect(&format!("d{i}"), options()).unwrap();
        c.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1),(2),(3)").unwrap();
        drop(c);
        let p = dir.path().join(format!("p{i}.db"));
        let c = rusqlite::Connection::open(p).unwrap();
        c.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES (1),(2),(3)")
            .unwrap();
    }
    let write = std::env::var_os("WRITE").is_some();
    let query = |c: &rusqlite::Connection| -> i64 {
        if write {
            c.execute("INSERT INTO t VALUES (4)", []).unwrap();
        }
        c.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap()
    };
    let rounds: usize = std::env::var("ROUNDS").ok().map_or(20, |r| r.parse().unwrap());
    let (mut a, mut b) = (vec![], vec![]);
    for _ in 0..rounds {
        for i in 0..50 {
            let s = Instant::now();
            let c = rusqlite::Connection::open(dir.path().join(format!("p{i}.db"))).unwrap();
            c.execute_batch("PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL").unwrap();
            c.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
            query(&c);
            drop(c);
            a.push(s.elapsed());
            let s = Instant::now();
            let c = plane.connect(&format!("d{i}"), options()).unwrap();
            query(&c);
            drop(c);
            b.push(s.elapsed());
        }
    }
    a.sort();
    b.sort();
    println!(
        "plain {:?} plane {:?} ratio {:.3}",
        a[a.len() / 2],
        b[b.len() / 2],
        b[b.len() / 2].as_secs_f64() / a[a.len() / 2].as_secs_f64()
    );
}
