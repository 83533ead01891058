//! Time, as the layers below `net` see it: a number that is handed to them.
//!
//! [`Tick`] is that number, [`Clock`] makes it from the machine's monotonic clock (only `net` and `main` hold
//! one), and [`Wheel`] keeps the deadlines of any number of keys ([`LazyWheel`]: once there are any). Because nobody else asks a clock, whole
//! shards run under a virtual one in the simulation, jumps included.

mod clock;
mod lazy;
mod wheel;

pub use clock::{Clock, Micros, Tick};
pub use lazy::LazyWheel;
pub use wheel::{BYTES_PER_KEY, KEY_MAX, Wheel};
