//! Writing a cache file, which nobody sees before it is complete and nobody sweeps before it is known.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::{Cache, FileKey, Mapping};
use crate::failpoint;

/// Bytes that are written between two syncs. A sync waits for the disk and hears no signal, so it has to be short.
const SYNC_BYTES: u64 = 32 << 20;

/// Keeps a new file from being swept before anything names it.
pub struct Claim {
    file: File,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock would last as long as the map, which refers to the open file too.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Who waits for the disk to have a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncAt {
    /// Who writes it.
    Writing,
    /// Who opens it first, and verifies it.
    FirstUse,
}

/// A cache file being written. Dropped unpublished, it leaves nothing.
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
    /// Of `file`, which has just been made at `path`.
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

    /// Maps the file and makes it visible under its name. The caller vouches for the content, and keeps the claim until
    /// those who sweep can tell that the file is wanted.
    pub fn publish(mut self, sync: SyncAt) -> io::Result<(Arc<Mapping>, Claim)> {
        failpoint::reach_io("cache.written")?;
        self.file.flush()?;
        let file = self.file.get_ref();
        if self.written != self.bytes {
            return Err(io::Error::other("the segment is not as long as it was said to be"));
        }
        // A crash of the system costs nothing: the next server believes no stamp of this one. But where the disk fails to
        // take the bytes, the kernel may forget them and show zeros that the stamp vouches for; only a sync tells.
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
            // The folder was removed meanwhile: the file serves this backend alone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(published),
            renamed => renamed?,
        }
        failpoint::reach_io("cache.renamed")?;
        if sync == SyncAt::Writing {
            // The rename changed the file's ctime: the stamp names what others will see.
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
        // Gone already after `publish`.
        let _ = fs::remove_file(&self.path);
    }
}

/// Locks a file for as long as it is open. Where the file system has no such locks, a sweep costs another copy.
pub(super) fn claim(file: &File) {
    while flock(file, FlockOperation::LockExclusive) == Err(Errno::INTR) {}
}

/// The lock on a file of which nobody has one; None: there is no file to lock. Err: somebody has claimed it.
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
            // Not every file system can preallocate; a write that fails later is still an error before the map.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
