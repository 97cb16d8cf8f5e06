//! The connections of `rusqlite`, whose SQLite differs from program to program.

use crate::driver::{Bind, Connection, Outcome, Value, add, digest};
use crate::rusqlite::{self, backup::Backup, fallible_iterator::FallibleIterator as _, types::ValueRef};

pub struct Sqlite(pub rusqlite::Connection);

impl Connection for Sqlite {
    fn batch(&mut self, sql: &str) -> Outcome<()> {
        let mut batch = rusqlite::Batch::new(&self.0, sql);
        while let Some(mut statement) = batch.next()? {
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
        }
        Ok(())
    }

    fn each(&mut self, statements: &[&str], steps: u32, bind: Bind<'_>) -> Outcome<u64> {
        let mut prepared = statements.iter().map(|sql| self.0.prepare(sql)).collect::<Result<Vec<_>, _>>()?;
        let (mut values, mut sum) = (Vec::new(), 0_u64);
        for step in 0..steps {
            for (index, statement) in prepared.iter_mut().enumerate() {
                values.clear();
                bind(step, index, &mut values);
                for (number, value) in (1..).zip(&values) {
                    match value {
                        Value::Integer(value) => statement.raw_bind_parameter(number, value)?,
                        Value::Text(value) => statement.raw_bind_parameter(number, value)?,
                        Value::Blob(value) => statement.raw_bind_parameter(number, value)?,
                    }
                }
                let columns = statement.column_count();
                let mut rows = statement.raw_query();
                while let Some(row) = rows.next()? {
                    for column in 0..columns {
                        let value = match row.get_ref(column)? {
                            ValueRef::Integer(value) => value.cast_unsigned(),
                            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => digest(bytes),
                            _ => 0,
                        };
                        sum = add(sum, value);
                    }
                }
            }
        }
        Ok(sum)
    }

    fn back_up_to(&mut self, target: &mut Self) -> Outcome<bool> {
        Backup::new(&self.0, &mut target.0)?.step(-1)?;
        Ok(true)
    }
}
