//! The model of the disk: what the running system sees, and what a cut leaves of it. Pure.
//!
//! In: operations of a file system, and when the power goes. Out: their results, and after
//! [`Disk::restore`] a disk that holds what survived.
//!
//! The rules are those of POSIX on a journalling file system over an honest SD card:
//! - data of a file is durable once the file was synced; before that every sector stands for itself: it
//!   holds any version that it had since, whatever its neighbours hold;
//! - the length of a file is any that it had since its last sync; what was never written reads as zeros;
//! - names (create, rename, unlink) are durable once the directory was synced; before that any first part
//!   of their changes may be there, in order. A synced file whose name was not is gone.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rand::{Rng, RngExt as _};

/// What a card writes as one.
const SECTOR: usize = 512;
/// What the page cache writes back as one.
const PAGE: usize = 4096;

/// Names a file for as long as it is open, whatever it is called. Never used twice.
pub type Inode = u64;

/// Why an operation did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power is off.
    Off,
    /// There is no such file.
    Missing,
}

/// How much of what was not synced a cut takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Everything,
    /// Any part, page by page: some pages were written back already.
    Pages,
    /// Any part, sector by sector: pages are torn.
    Sectors,
    /// None of it.
    Nothing,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    present: Vec<u8>,
    durable: Vec<u8>,
    /// What leads from `durable` to `present`, in order.
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Naming {
    Link(String, Inode),
    Unlink(String),
    Rename(String, String),
}

/// One directory of files, and its power switch.
#[derive(Debug, Default)]
pub struct Disk {
    files: BTreeMap<Inode, File>,
    names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    /// What leads from `durable_names` to `names`, in order.
    unsynced_names: Vec<Naming>,
    last: Inode,
    /// Changes until the power goes; None: it stays.
    fuse: Option<u64>,
    off: bool,
}

impl Disk {
    /// An empty disk whose inodes begin after `reserved`.
    #[must_use]
    pub fn new(reserved: Inode) -> Self {
        Self { last: reserved, ..Self::default() }
    }

    /// Forgets everything, and the power is on.
    pub fn format(&mut self) {
        *self = Self::new(self.last);
    }

    /// Names of the files that hold what was not synced.
    #[must_use]
    pub fn unsynced(&self) -> Vec<&str> {
        let unsynced = |inode| self.files.get(inode).is_some_and(|file| !file.unsynced.is_empty());
        self.names.iter().filter(|(_, inode)| unsynced(*inode)).map(|(name, _)| name.as_str()).collect()
    }

    /// The power goes with the `changes`-th change from now on: that one may have happened, but nobody
    /// hears of it, and a sync has not.
    pub fn cut_after(&mut self, changes: u64) {
        self.fuse = Some(changes);
    }

    /// The power goes now.
    pub fn cut(&mut self) {
        self.off = true;
    }

    /// Whether the power went.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// The power comes back: the disk holds what survived. Inodes of before are gone.
    pub fn restore(&mut self, loss: Loss, random: &mut impl Rng) {
        let mut names = self.durable_names.clone();
        let kept = part(self.unsynced_names.len(), loss, random);
        self.unsynced_names.drain(..).take(kept).for_each(|change| rename(&mut names, change));
        let mut files = BTreeMap::new();
        for inode in names.values_mut() {
            let Some(file) = self.files.get(inode) else { continue };
            let data = file.survivor(loss, random);
            self.last += 1;
            *inode = self.last;
            files.insert(*inode, File { present: data.clone(), durable: data, unsynced: Vec::new() });
        }
        *self = Self { files, durable_names: names.clone(), names, last: self.last, ..Self::default() };
    }

    /// The file that has a name.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn find(&self, name: &str) -> Result<Inode, Fault> {
        self.on()?;
        self.names.get(name).copied().ok_or(Fault::Missing)
    }

    /// All names.
    ///
    /// # Errors
    /// [`Fault::Off`].
    pub fn list(&self) -> Result<Vec<(String, Inode)>, Fault> {
        self.on()?;
        Ok(self.names.iter().map(|(name, inode)| (name.clone(), *inode)).collect())
    }

    /// Bytes of a file.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn size(&self, inode: Inode) -> Result<u64, Fault> {
        Ok(self.file(inode)?.present.len() as u64)
    }

    /// Reads up to `len` bytes.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn read(&self, inode: Inode, offset: usize, len: usize) -> Result<&[u8], Fault> {
        let data = &self.file(inode)?.present;
        let from = offset.min(data.len());
        Ok(&data[from..(from + len).min(data.len())])
    }

    /// Makes an empty file; one of that name loses it.
    ///
    /// # Errors
    /// [`Fault::Off`].
    pub fn create(&mut self, name: &str) -> Result<Inode, Fault> {
        self.on()?;
        self.last += 1;
        self.files.insert(self.last, File::default());
        self.name(Naming::Link(name.to_owned(), self.last));
        self.spend()?;
        Ok(self.last)
    }

    /// Takes a name away. The file lives on for who has it open.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn unlink(&mut self, name: &str) -> Result<(), Fault> {
        self.find(name)?;
        self.name(Naming::Unlink(name.to_owned()));
        self.spend()
    }

    /// Gives a file another name; what had it loses it.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), Fault> {
        self.find(from)?;
        self.name(Naming::Rename(from.to_owned(), to.to_owned()));
        self.spend()
    }

    /// Writes.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn write(&mut self, inode: Inode, offset: usize, data: &[u8]) -> Result<(), Fault> {
        self.change(inode, Change::Write { offset, data: data.to_vec() })
    }

    /// Cuts a file off, or extends it by zeros.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn resize(&mut self, inode: Inode, len: usize) -> Result<(), Fault> {
        self.change(inode, Change::Resize(len))
    }

    /// Makes the data of a file durable; not its name.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn sync(&mut self, inode: Inode) -> Result<(), Fault> {
        self.file(inode)?;
        self.spend()?;
        if let Some(file) = self.files.get_mut(&inode) {
            file.durable.clone_from(&file.present);
            file.unsynced.clear();
        }
        Ok(())
    }

    /// Makes all names durable.
    ///
    /// # Errors
    /// [`Fault::Off`].
    pub fn sync_names(&mut self) -> Result<(), Fault> {
        self.on()?;
        self.spend()?;
        self.durable_names.clone_from(&self.names);
        self.unsynced_names.clear();
        Ok(())
    }

    fn on(&self) -> Result<(), Fault> {
        if self.off { Err(Fault::Off) } else { Ok(()) }
    }

    /// One change nearer to the cut.
    fn spend(&mut self) -> Result<(), Fault> {
        if let Some(left) = &mut self.fuse {
            *left = left.saturating_sub(1);
            self.off |= *left == 0;
        }
        self.on()
    }

    fn file(&self, inode: Inode) -> Result<&File, Fault> {
        self.on()?;
        self.files.get(&inode).ok_or(Fault::Missing)
    }

    fn change(&mut self, inode: Inode, change: Change) -> Result<(), Fault> {
        self.on()?;
        let file = self.files.get_mut(&inode).ok_or(Fault::Missing)?;
        change.apply(&mut file.present);
        file.unsynced.push(change);
        self.spend()
    }

    fn name(&mut self, change: Naming) {
        rename(&mut self.names, change.clone());
        self.unsynced_names.push(change);
    }
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data: written } => {
                let end = offset + written.len();
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[*offset..end].copy_from_slice(written);
            }
            Self::Resize(len) => data.resize(*len, 0),
        }
    }

    /// Applies what of it falls into the block that begins at `start`.
    fn apply_to(&self, block: &mut [u8], start: usize) {
        match self {
            Self::Write { offset, data } => {
                let from = start.max(*offset);
                let to = (start + block.len()).min(offset + data.len());
                if from < to {
                    block[from - start..to - start].copy_from_slice(&data[from - offset..to - offset]);
                }
            }
            Self::Resize(len) => {
                let from = len.saturating_sub(start).min(block.len());
                block[from..].fill(0);
            }
        }
    }

    fn length(&self, before: usize) -> usize {
        match self {
            Self::Write { offset, data } => before.max(offset + data.len()),
            Self::Resize(len) => *len,
        }
    }
}

impl File {
    fn survivor(&self, loss: Loss, random: &mut impl Rng) -> Vec<u8> {
        let block = match loss {
            Loss::Everything => return self.durable.clone(),
            Loss::Nothing => return self.present.clone(),
            Loss::Pages => PAGE,
            Loss::Sectors => SECTOR,
        };
        if self.unsynced.is_empty() {
            return self.durable.clone();
        }
        let changes = part(self.unsynced.len(), loss, random);
        let length =
            self.unsynced.iter().take(changes).fold(self.durable.len(), |len, next| next.length(len));
        let mut data = self.durable.clone();
        data.resize(length, 0);
        for (index, block) in data.chunks_mut(block).enumerate() {
            let start = index * if loss == Loss::Pages { PAGE } else { SECTOR };
            let changes = part(self.unsynced.len(), loss, random);
            self.unsynced.iter().take(changes).for_each(|change| change.apply_to(block, start));
        }
        data
    }
}

/// How many of `all` changes happened.
fn part(all: usize, loss: Loss, random: &mut impl Rng) -> usize {
    match loss {
        Loss::Everything => 0,
        Loss::Pages | Loss::Sectors => random.random_range(0..=all),
        Loss::Nothing => all,
    }
}

fn rename(names: &mut BTreeMap<String, Inode>, change: Naming) {
    match change {
        Naming::Link(name, inode) => {
            names.insert(name, inode);
        }
        Naming::Unlink(name) => {
            names.remove(&name);
        }
        Naming::Rename(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
    }
}
