// side: the numbers of keys, or of values.

override SIDE_DIM: u32;         // elements of a row
override SIDE_SLOTS: u32;       // rows of a plane
override SIDE_LANES: u32;       // elements of a word: 2 of a 16-bit format, else 1
override SIDE_PLANE_WORDS: u32;
// Of packed formats, else 0.
override SIDE_CODE_WORDS: u32;  // words of the codes of a row
override SIDE_SCALE_WORDS: u32; // words of the scales of a row
override SIDE_ROW_PARTS: u32;   // words of a row that one thread writes each
