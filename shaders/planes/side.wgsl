// side: the sizes of the keys, or of the values.

override SIDE_DIM: u32;         // elements in a row
override SIDE_SLOTS: u32;       // rows in a plane
override SIDE_LANES: u32;       // elements in a word: 2 for a 16-bit format, else 1
override SIDE_PLANE_WORDS: u32; // words in a plane
// The following are 0 unless the format is packed.
override SIDE_CODE_WORDS: u32;  // words of codes in a row
override SIDE_SCALE_WORDS: u32; // words of scales in a row
override SIDE_ROW_PARTS: u32;   // units in a row
