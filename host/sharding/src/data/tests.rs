//! Tests of the data API, to come with their own words.
