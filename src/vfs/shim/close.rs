//! Closing files.

use std::{ffi::c_int, ptr};

use rusqlite::ffi::{self, sqlite3_file};

use super::{call::guard, file::File};

pub(super) unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite passes an open file, once, and does not use it afterwards. The layers release the locks of the file in
    // `VfsFile::close`, so that no peer uses the file below when it is closed.
    unsafe {
        let ours = file.cast::<File>();
        let layers = (*ours).layers.take();
        guard(|| {
            if let Some(layers) = &layers {
                layers.close();
            }
            ffi::SQLITE_OK
        });
        let (real, methods) = ((*ours).real, (*(*ours).real).pMethods);
        let code = (*methods).xClose.map_or(ffi::SQLITE_OK, |close| close(real));
        (*file).pMethods = ptr::null();
        (*ours).memory = Vec::new();
        // The policy source may run any code when it is dropped.
        guard(|| {
            drop(layers);
            code
        })
    }
}
