#![doc = include_str!("../README.md")]

pub mod batch;
pub mod cache;
pub mod chat;
pub mod draft;
pub mod engine;
mod error;
pub mod file;
pub mod generate;
mod kernels;
pub mod model;
pub mod perplexity;
mod times;
pub mod tokens;
mod weights;

pub use error::{Error, Result};
