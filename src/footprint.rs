//! The unit in which structures say what they take.
//!
//! The numbers are computed from types and capacities, not read from the allocator: its own bytes are not in
//! them, nor the pages of the process that belong to no connection. `bench footprint` adds the parts up
//! and puts the sum beside what the kernel says.

/// Bytes of one structure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// In use by what is there.
    pub used: u64,
    /// Asked of the allocator, the unused end of a growing array included. The kernel gives memory only for
    /// the pages of it that have been touched.
    pub reserved: u64,
}

impl Part {
    /// `count` records of `each` bytes in an array with place for `capacity`.
    #[must_use]
    pub fn array(count: usize, capacity: usize, each: usize) -> Part {
        Part { used: (count * each) as u64, reserved: (capacity * each) as u64 }
    }

    /// Something that takes what it uses.
    #[must_use]
    pub fn exact(bytes: usize) -> Part {
        Part { used: bytes as u64, reserved: bytes as u64 }
    }
}

impl std::ops::AddAssign for Part {
    fn add_assign(&mut self, other: Part) {
        self.used += other.used;
        self.reserved += other.reserved;
    }
}

impl std::iter::Sum for Part {
    fn sum<I: Iterator<Item = Part>>(parts: I) -> Part {
        parts.fold(Part::default(), |mut sum, part| {
            sum += part;
            sum
        })
    }
}
