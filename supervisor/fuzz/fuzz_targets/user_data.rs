//! User-data of any bytes: it is read or refused, and what is wrong has a place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use supervisor::seed::cloud_init::{UserData, UserDataError};

fuzz_target!(|data: &[u8]| {
    match UserData::read(data) {
        Ok(user_data) => assert!(!user_data.text().is_empty()),
        Err(UserDataError::At(place)) => assert!(place.line >= 1 && place.column >= 1, "{place}"),
        Err(_) => {}
    }
});
