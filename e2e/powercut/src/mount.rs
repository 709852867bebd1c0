//! The disk under a directory, through FUSE: each system call becomes one operation of the model, past
//! the page cache.
//!
//! In: what any program does in [`Mounted::path`]. Out: the model's answers; with the power off, EIO.

use std::{
    ffi::OsStr,
    fmt, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
    spawn_mount,
};
use tempfile::TempDir;

use crate::disk::{Disk, Fault, Inode};

/// The kernel keeps no name and no attribute: after a cut they are others.
const NO_CACHE: Duration = Duration::ZERO;
/// Programs that ask get their own pages.
const BLOCK: u32 = 4096;

/// A disk that is mounted; unmounted when this is dropped.
pub struct Mounted {
    disk: Arc<Mutex<Disk>>,
    // Before the directory, which must be empty when it is removed.
    _session: BackgroundSession,
    dir: TempDir,
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounted").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Mounted {
    /// Mounts an empty disk in a directory of its own.
    ///
    /// # Errors
    /// What the system says; mostly that this is not root, or that there is no `/dev/fuse`.
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("powercut-").tempdir()?;
        let disk = Arc::new(Mutex::new(Disk::new(INodeNo::ROOT.0)));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("powercut".into())];
        let session = spawn_mount(Served(Arc::clone(&disk)), dir.path(), &config)?;
        Ok(Self { disk, _session: session, dir })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Does something with the disk. No file of it may be touched meanwhile by the same thread.
    pub fn change<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        change(&mut self.disk.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes it empty, and the power is on.
    pub fn format(&self) {
        self.change(Disk::format);
    }

    /// Whether the power went.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.change(|disk| disk.is_off())
    }
}

/// The kernel's end.
struct Served(Arc<Mutex<Disk>>);

impl Served {
    fn ask<T>(&self, question: impl FnOnce(&mut Disk) -> Result<T, Fault>) -> Result<T, Errno> {
        let mut disk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        question(&mut disk).map_err(|fault| match fault {
            Fault::Off => Errno::EIO,
            Fault::Missing => Errno::ENOENT,
        })
    }

    fn file(&self, inode: Inode) -> Result<FileAttr, Errno> {
        self.ask(|disk| disk.size(inode)).map(|size| attributes(inode, size, FileType::RegularFile))
    }

    fn attributes(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
        match inode {
            // The directory itself is there also when the power is off: a mount point must not vanish.
            INodeNo::ROOT => Ok(attributes(inode.0, 0, FileType::Directory)),
            inode => self.file(inode.0),
        }
    }

    fn find(&self, name: &OsStr) -> Result<FileAttr, Errno> {
        let name = text(name)?;
        let inode = self.ask(|disk| disk.find(name))?;
        self.file(inode)
    }

    fn make(&self, name: &OsStr) -> Result<FileAttr, Errno> {
        let name = text(name)?;
        let inode = self.ask(|disk| disk.create(name))?;
        self.file(inode)
    }
}

fn text(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

fn attributes(inode: Inode, size: u64, kind: FileType) -> FileAttr {
    let time: SystemTime = UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: 0o600,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(name) {
            Ok(file) => reply.entry(&NO_CACHE, &file, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Ok(file) => reply.attr(&NO_CACHE, &file),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _accessed: Option<TimeOrNow>,
        _modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _: Option<FileHandle>,
        _created: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _archived: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resize = |size| self.ask(|disk| disk.resize(inode.0, length(size)));
        match size.map_or(Ok(()), resize).and_then(|()| self.attributes(inode)) {
            Ok(file) => reply.attr(&NO_CACHE, &file),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        match self.make(name) {
            Ok(file) => reply.entry(&NO_CACHE, &file, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(name) {
            Ok(file) => {
                let past = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&NO_CACHE, &file, Generation(0), FileHandle(0), past);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(text(name).and_then(|name| self.ask(|disk| disk.unlink(name))), reply);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        from: &OsStr,
        _: INodeNo,
        to: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let names = text(from).and_then(|from| Ok((from, text(to)?)));
        done(names.and_then(|(from, to)| self.ask(|disk| disk.rename(from, to))), reply);
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.file(inode.0) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.ask(|disk| Ok(disk.read(inode.0, length(offset), length(size.into()))?.to_vec()));
        match read {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.ask(|disk| disk.write(inode.0, length(offset), data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    /// A close, which makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    /// `fsync` and `fdatasync`: the length belongs to the data, there is nothing more to tell apart.
    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        done(self.ask(|disk| disk.sync(inode.0)), reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        done(self.ask(Disk::sync_names), reply);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.ask(|disk| disk.list()) {
            Ok(names) => {
                let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
                for (index, (name, inode)) in names.into_iter().enumerate().skip(skipped) {
                    if reply.add(INodeNo(inode), index as u64 + 1, FileType::RegularFile, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }
}

fn done(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

/// An offset or a size: this disk is in memory, so that both fit.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
