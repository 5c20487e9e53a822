//! Writes a cache file, which is invisible until it is complete and claimed until a manifest names it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::{Cache, FileKey, Mapping};
use crate::failpoint;

/// Bytes written between two syncs. A sync cannot be interrupted, so it must be short.
const SYNC_BYTES: u64 = 32 << 20;

/// Protects a new file from being swept before a manifest names it.
pub struct Claim {
    file: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Unlock explicitly: the mapping also refers to the open file, and would keep the lock.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Which process waits until a new file is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncAt {
    /// The writer.
    Writing,
    /// The first process that opens and verifies the file.
    FirstUse,
}

/// A cache file being written. If dropped before `publish`, it is removed.
pub struct CacheWriter<'a> {
    cache: &'a Cache,
    key: FileKey,
    path: PathBuf,
    file: io::BufWriter<File>,
    bytes: u64,
    written: u64,
    synced: u64,
}

impl<'a> CacheWriter<'a> {
    /// Starts writing `file`, which was just created at `path`.
    pub(super) fn start(
        cache: &'a Cache,
        key: FileKey,
        path: PathBuf,
        file: File,
        bytes: u64,
    ) -> io::Result<Self> {
        let file = io::BufWriter::new(file);
        let writer = CacheWriter { cache, key, path, file, bytes, written: 0, synced: 0 };
        failpoint::reach_io("cache.created")?;
        preallocate(writer.file.get_ref(), bytes)?;
        failpoint::reach_io("cache.preallocated")?;
        Ok(writer)
    }

    /// Maps the file and renames it to its final name. The caller guarantees the content, and keeps the claim until a
    /// manifest names the file.
    pub fn publish(mut self, sync: SyncAt) -> io::Result<(Arc<Mapping>, Claim)> {
        failpoint::reach_io("cache.written")?;
        self.file.flush()?;
        let file = self.file.get_ref();
        if self.written != self.bytes {
            return Err(io::Error::other("the segment is not as long as it was said to be"));
        }
        // After a system crash no stamp of this server run is trusted. But if the disk fails to store the bytes, the
        // kernel may drop them and show zeros under a stamp that says they are valid; only a sync detects that.
        if sync == SyncAt::Writing {
            file.sync_data()?;
        }
        failpoint::reach_io("cache.synced")?;
        let path = self.cache.folder.join(self.key.file_name());
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            fs::remove_dir_all(&path)?;
        }
        let published =
            (Arc::new(Mapping::of(file, self.bytes as usize)?), Claim { file: file.try_clone()? });
        match fs::rename(&self.path, &path) {
            // The folder was removed meanwhile: only this backend uses the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(published),
            renamed => renamed?,
        }
        failpoint::reach_io("cache.renamed")?;
        if sync == SyncAt::Writing {
            // The rename changed the file's ctime, so compute the stamp afterwards.
            self.cache.write_stamp(&self.key, &self.cache.stamp(&file.metadata()?));
        }
        failpoint::reach_io("cache.stamped")?;
        Ok(published)
    }
}

impl Write for CacheWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        if self.written - self.synced >= SYNC_BYTES {
            self.file.flush()?;
            self.file.get_ref().sync_data()?;
            self.synced = self.written;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for CacheWriter<'_> {
    fn drop(&mut self) {
        // Does nothing after `publish`.
        let _ = fs::remove_file(&self.path);
    }
}

/// Locks a file as long as it is open. On file systems without such locks, a sweep may remove it and it is written
/// again.
pub(super) fn claim(file: &File) {
    while flock(file, FlockOperation::LockExclusive) == Err(Errno::INTR) {}
}

/// Locks an unclaimed file; None if there is no such file. Err if another process has claimed it.
pub(super) fn try_claim(path: &Path) -> Result<Option<File>, ()> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return Ok(None) };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(()),
        _ => Ok(Some(file)),
    }
}

fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    loop {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Err(Errno::INTR) => {}
            // Not every file system can preallocate; then a full disk is still an error of a write, before the file is
            // mapped.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
