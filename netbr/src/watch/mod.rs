//! Which addresses the guest behind a port has, or why it has none.
//!
//! | module or type | is |
//! |---|---|
//! | [`frame`] | what a frame tells of addresses: a pure parser |
//! | [`Table`] | the guest's addresses: frames and times in, changes and questions out; pure |
//! | [`Watcher`], [`Watch`] | a table kept up to date from a packet socket, and the view of it |

pub mod frame;
mod question;
mod table;
#[cfg(test)]
mod testing;
mod watcher;

pub use question::Asker;
pub use table::{
    Address, AskError, CAPACITY, Clocks, Event, LikelyCause, LostWhy, MOST_ASKED, NoAddress, Output, Port,
    Saved, Source, Table, TableConfig, Want,
};
pub use watcher::{FrameHook, NoHook, Watch, WatchError, Watcher, WatcherConfig, WishError};
