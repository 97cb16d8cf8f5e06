//! A historical view as SQLite uses it: a read-only file that never changes.

use std::{ffi::c_int, sync::Arc};

use rusqlite::ffi::{SQLITE_IOCAP_IMMUTABLE, SQLITE_OK, SQLITE_READONLY};

use super::{
    file::{FileInfo, VfsFile},
    history_view::View,
    limits::Limits,
    raw_file::RawFile,
    registry,
};
use crate::sys::read_buf::ReadBuf;

#[derive(Debug)]
pub(super) struct ViewFile(Arc<View>);

impl ViewFile {
    pub(super) fn new(view: View) -> Self {
        let view = Arc::new(view);
        registry::add_view(&view);
        Self(view)
    }
}

impl VfsFile for ViewFile {
    fn read(&self, into: &mut ReadBuf<'_>, at: u64, _: &dyn RawFile) -> c_int {
        self.0.read(into.bytes(), at)
    }

    fn write(&self, _: &[u8], _: u64, _: &dyn RawFile) -> c_int {
        SQLITE_READONLY
    }

    fn truncate(&self, _: u64, _: &dyn RawFile) -> c_int {
        SQLITE_READONLY
    }

    fn sync(&self, _: c_int, _: &dyn RawFile) -> c_int {
        SQLITE_OK
    }

    fn len(&self, _: &dyn RawFile) -> Result<u64, c_int> {
        Ok(self.0.len())
    }

    fn device_characteristics(&self, _: c_int) -> c_int {
        SQLITE_IOCAP_IMMUTABLE
    }

    fn set_connection(&self, connection: usize, _: &dyn RawFile) {
        self.0.belongs_to(connection);
    }

    fn refused_pragma(&self, name: &str, value: Option<&str>, _: &dyn RawFile) -> Option<&'static str> {
        Limits::refused_pragma(name, value, None)
    }

    fn describe(&self, code: c_int) -> Option<FileInfo> {
        Some(FileInfo { refusal: self.0.take_refusal(code), seal: self.0.seal(), ..FileInfo::default() })
    }

    fn close(&self) {
        registry::remove_view(&self.0);
    }
}
