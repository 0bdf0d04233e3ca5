-- A print-on-demand shop to develop against: 20 categories, 100 products, 500 images, their SKUs, some coupons.
-- Applied by `chowk dev` after the migrations. Safe to run again: what exists is left as it is, edits included.
-- GST rates and HSN codes are plausible, not advice: have an accountant confirm yours.

-- ---- categories, with what all their products share --------------------------------------------------------
-- kind names the set of options below; stock is NULL where each piece is printed after it was ordered.
CREATE TEMP TABLE seed_categories (n serial, slug text, name text, description text, kind text, hsn text,
                                   gst_rate_bp int, partner text, stock int, care text);
INSERT INTO seed_categories (slug, name, description, kind, hsn, gst_rate_bp, partner, stock, care) VALUES
  ('mens-t-shirts',   'Men''s T-Shirts',   'Regular-fit cotton tees, printed the day you order.', 'tee', '6109', 500, 'tiruppur-print-works', NULL,
   '180 gsm combed cotton, bio-washed. Machine wash cold, inside out.'),
  ('womens-t-shirts', 'Women''s T-Shirts', 'Softer cuts, the same loud prints.',                  'tee', '6109', 500, 'tiruppur-print-works', NULL,
   '180 gsm combed cotton with a little stretch. Machine wash cold, inside out.'),
  ('oversized-tees',  'Oversized Tees',    'Drop shoulders and heavy cotton.',                    'tee', '6109', 500, 'tiruppur-print-works', NULL,
   '240 gsm French terry cotton, drop shoulder. Wash cold, dry in shade.'),
  ('polos',           'Polo T-Shirts',     'Collared, embroidered, office-proof.',                'tee', '6105', 500, 'tiruppur-print-works', NULL,
   '220 gsm cotton pique with an embroidered chest mark. Iron on the reverse.'),
  ('hoodies',         'Hoodies',           'Fleece for air-conditioned offices and Delhi Januaries.', 'tee', '6110', 500, 'ludhiana-knits', NULL,
   '320 gsm brushed fleece, kangaroo pocket. Wash cold; do not tumble dry.'),
  ('sweatshirts',     'Sweatshirts',       'Crew necks, brushed inside.',                         'tee', '6110', 500, 'ludhiana-knits', NULL,
   '300 gsm brushed fleece, ribbed cuffs. Wash cold; do not tumble dry.'),
  ('kids-t-shirts',   'Kids'' T-Shirts',   'For people between two and twelve.',                  'kids', '6109', 500, 'tiruppur-print-works', NULL,
   '160 gsm cotton with skin-safe inks. Machine wash with the rest.'),
  ('baby-rompers',    'Baby Rompers',      'Half-sleeve rompers with snaps where they matter.',   'baby', '6111', 500, 'tiruppur-print-works', NULL,
   'Organic cotton, nickel-free snaps. Wash at 40 degrees.'),
  ('mugs',            'Mugs',              'Ceramic, printed all round, chai-tested.',            'mug', '6912', 500, 'morbi-ceramics', NULL,
   'Glossy ceramic, dishwasher and microwave safe.'),
  ('water-bottles',   'Water Bottles',     'Steel bottles that keep nimbu pani cold till evening.', 'bottle', '9617', 1800, 'noida-steelware', 60,
   'Double-walled 304 stainless steel, leak-proof lid. Hand wash only.'),
  ('phone-cases',     'Phone Cases',       'Hard cases with edge-to-edge prints.',                'phone', '3926', 1800, 'noida-cases', NULL,
   'Polycarbonate shell, matt print on all sides, raised lip around the camera.'),
  ('laptop-sleeves',  'Laptop Sleeves',    'Padded, zipped, printed on both sides.',              'laptop', '4202', 1800, 'noida-cases', NULL,
   '6 mm foam padding, water-resistant outside, soft lining.'),
  ('posters',         'Posters',           'Archival prints on heavy matt paper.',                'poster', '4911', 1800, 'bengaluru-fine-print', NULL,
   '250 gsm matt art paper, shipped rolled in a tube. Frame not included.'),
  ('canvas-prints',   'Canvas Prints',     'Stretched and ready to hang.',                        'canvas', '4911', 1800, 'bengaluru-fine-print', NULL,
   'Poly-cotton canvas on a pine frame, hooks included.'),
  ('cushion-covers',  'Cushion Covers',    'Half a room makeover for the price of a thali.',      'cushion', '6304', 500, 'jaipur-home', NULL,
   'Cotton-linen blend with a hidden zip. Filler not included.'),
  ('tote-bags',       'Tote Bags',         'For sabzi, books and everything between.',            'tote', '4202', 500, 'jaipur-home', 80,
   '12 oz natural canvas, carries eight kilos. Spot clean.'),
  ('caps',            'Caps',              'Six panels, one good line.',                          'cap', '6505', 500, 'ludhiana-knits', 40,
   'Brushed cotton twill with an adjustable metal buckle.'),
  ('notebooks',       'Notebooks',         'Soft covers, honest paper.',                          'notebook', '4820', 1800, 'bengaluru-fine-print', 120,
   '160 pages of 100 gsm ivory paper, section-sewn, lies flat.'),
  ('stickers',        'Stickers',          'Vinyl, waterproof, laptop-lid sized.',                'sticker', '4911', 1800, 'bengaluru-fine-print', 300,
   'Matt vinyl, waterproof, comes off without a trace.'),
  ('fridge-magnets',  'Fridge Magnets',    'Souvenirs for people who never left.',                'magnet', '8505', 1800, 'morbi-ceramics', 150,
   'Printed MDF with a full-back magnet, 6 cm.');

-- ---- products: five per category ---------------------------------------------------------------------------
CREATE TEMP TABLE seed_products (n serial, category text, code text, slug text, name text, rupees int, blurb text);
INSERT INTO seed_products (category, code, slug, name, rupees, blurb) VALUES
  ('mens-t-shirts', 'MTCHAI', 'cutting-chai-tee', 'Cutting Chai Tee', 499, 'Half a glass, full energy: a tapri line drawing across the chest.'),
  ('mens-t-shirts', 'MTAUTO', 'auto-meter-tee', 'Auto Meter Down Tee', 549, 'The rickshaw meter that, for once, starts at zero.'),
  ('mens-t-shirts', 'MTMONS', 'monsoon-line-tee', 'Monsoon Line Tee', 499, 'The Western Line at Dadar in July, in four colours.'),
  ('mens-t-shirts', 'MTGULLY', 'gully-cricket-tee', 'Gully Cricket Rules Tee', 549, 'Over the wall is out. One-tip-one-hand counts.'),
  ('mens-t-shirts', 'MTCHOWK', 'chandni-chowk-tee', 'Chandni Chowk Tee', 599, 'A street map of the moonlit square, parathas included.'),
  ('womens-t-shirts', 'WTJUGAAD', 'jugaad-tee', 'Jugaad Tee', 499, 'It works. Do not ask how.'),
  ('womens-t-shirts', 'WTMOGRA', 'mogra-tee', 'Mogra Garland Tee', 549, 'A string of jasmine around the collar that never wilts.'),
  ('womens-t-shirts', 'WTBANDRA', 'bandra-walls-tee', 'Bandra Walls Tee', 599, 'Street art from Chapel Road, redrawn in two inks.'),
  ('womens-t-shirts', 'WTKAAPI', 'filter-coffee-tee', 'Filter Coffee Person Tee', 499, 'Davara, tumbler, and a metre of foam between them.'),
  ('womens-t-shirts', 'WTPEACOCK', 'peacock-block-print-tee', 'Peacock Block Print Tee', 649, 'A Bagru block, carved for us and scanned at full size.'),
  ('oversized-tees', 'OTTRUCK', 'horn-ok-please-oversized-tee', 'Horn OK Please Oversized Tee', 899, 'Highway truck lettering, painted by a man who does it for a living.'),
  ('oversized-tees', 'OTLOTUS', 'lotus-grid-oversized-tee', 'Lotus Grid Oversized Tee', 849, 'Sixteen lotuses, one of them looking the other way.'),
  ('oversized-tees', 'OTLOCAL', 'last-local-oversized-tee', 'Last Local Oversized Tee', 899, '00:38 to Karjat: the platform board in amber print.'),
  ('oversized-tees', 'OTTIGER', 'ranthambore-oversized-tee', 'Ranthambore Oversized Tee', 949, 'A tiger who has seen enough jeeps for one day.'),
  ('oversized-tees', 'OTSTEP', 'stepwell-oversized-tee', 'Stepwell Oversized Tee', 899, 'Chand Baori, looking down, in three greys.'),
  ('polos', 'PLELEPH', 'elephant-crest-polo', 'Elephant Crest Polo', 899, 'A small embroidered elephant that outranks the logo on the meeting-room wall.'),
  ('polos', 'PLKITE', 'patang-polo', 'Patang Polo', 849, 'A paper kite on the chest, its string running round the hem.'),
  ('polos', 'PLAMBY', 'ambassador-polo', 'Ambassador Polo', 899, 'Everyone''s uncle''s car, in satin stitch.'),
  ('polos', 'PLPAISLEY', 'paisley-placket-polo', 'Paisley Placket Polo', 949, 'Plain outside; Kashmiri paisley inside the placket.'),
  ('polos', 'PLBANYAN', 'banyan-polo', 'Banyan Polo', 899, 'A tree on the heart, its roots on the sleeve.'),
  ('hoodies', 'HDHIMALAYA', 'himalaya-contour-hoodie', 'Himalaya Contour Hoodie', 1499, 'Contour lines from Manali to Leh across the back.'),
  ('hoodies', 'HDDELHI', 'delhi-winter-hoodie', 'Delhi Winter Hoodie', 1399, 'Visibility: 20 metres. Print: slightly more.'),
  ('hoodies', 'HDCODE', 'it-works-on-my-machine-hoodie', 'It Works on My Machine Hoodie', 1299, 'For the colleague who says so. Black, naturally.'),
  ('hoodies', 'HDOWL', 'night-shift-hoodie', 'Night Shift Hoodie', 1399, 'An owl, a lamp, a deployment at two in the morning.'),
  ('hoodies', 'HDSPICE', 'masala-dabba-hoodie', 'Masala Dabba Hoodie', 1499, 'Seven bowls of colour, seen from above.'),
  ('sweatshirts', 'SWSHIMLA', 'toy-train-sweatshirt', 'Toy Train Sweatshirt', 1199, 'Kalka to Shimla, 102 tunnels, one small engine.'),
  ('sweatshirts', 'SWTEA', 'munnar-tea-sweatshirt', 'Munnar Tea Sweatshirt', 1099, 'Rows of green, and a picker who is done for the day.'),
  ('sweatshirts', 'SWLUDO', 'ludo-sweatshirt', 'Ludo Sweatshirt', 1099, 'The board on the chest; the family argument not included.'),
  ('sweatshirts', 'SWMOON', 'purnima-sweatshirt', 'Purnima Sweatshirt', 1199, 'A full moon in reflective ink.'),
  ('sweatshirts', 'SWRADIO', 'valve-radio-sweatshirt', 'Valve Radio Sweatshirt', 1199, 'The old wooden set that sang before breakfast.'),
  ('kids-t-shirts', 'KTDINO', 'rajasaurus-kids-tee', 'Rajasaurus Kids'' Tee', 399, 'India''s own dinosaur, 67 million years old and still hungry.'),
  ('kids-t-shirts', 'KTMANGO', 'mango-season-kids-tee', 'Mango Season Kids'' Tee', 399, 'Alphonso, Langra, Dasheri: a chart for serious research.'),
  ('kids-t-shirts', 'KTROCKET', 'sriharikota-kids-tee', 'Sriharikota Kids'' Tee', 449, 'Ten, nine, eight… a rocket that runs up the side seam.'),
  ('kids-t-shirts', 'KTELEPH', 'little-elephant-kids-tee', 'Little Elephant Kids'' Tee', 399, 'He forgot where he left his umbrella.'),
  ('kids-t-shirts', 'KTAKKAD', 'akkad-bakkad-kids-tee', 'Akkad Bakkad Kids'' Tee', 399, 'The whole rhyme, set in Devanagari letters that dance.'),
  ('baby-rompers', 'BRLADOO', 'little-ladoo-romper', 'Little Ladoo Romper', 449, 'Round, sweet, and usually sticky.'),
  ('baby-rompers', 'BRMOUSE', 'chuha-romper', 'Chuha Romper', 449, 'A mouse asleep inside a slipper.'),
  ('baby-rompers', 'BRSTAR', 'taare-romper', 'Taare Romper', 499, 'Glow-in-the-dark stars for the third feed of the night.'),
  ('baby-rompers', 'BRBOSS', 'ghar-ka-boss-romper', 'Ghar Ka Boss Romper', 449, 'Everyone knows it anyway.'),
  ('baby-rompers', 'BRPEAS', 'matar-romper', 'Matar Romper', 449, 'Three peas in a pod; one of them is yawning.'),
  ('mugs', 'MGCHAI', 'adrak-wali-chai-mug', 'Adrak Wali Chai Mug', 349, 'With the recipe around the rim, so that guests may help.'),
  ('mugs', 'MGMONDAY', 'somvar-mug', 'Somvar Mug', 349, 'Monday, in a typeface that has given up.'),
  ('mugs', 'MGMAP', 'railway-map-mug', 'Railway Map Mug', 399, 'Every trunk line of the network, printed all round.'),
  ('mugs', 'MGMAA', 'maa-ke-haath-mug', 'Maa Ke Haath Mug', 349, 'Nothing tastes like it. This comes close.'),
  ('mugs', 'MGDEBUG', 'debug-chai-repeat-mug', 'Debug Chai Repeat Mug', 379, 'A flow chart with exactly one loop.'),
  ('water-bottles', 'WBLADAKH', 'pangong-bottle', 'Pangong Bottle', 799, 'The blue of the lake at noon, fading to brown hills.'),
  ('water-bottles', 'WBCRICKET', 'drinks-break-bottle', 'Drinks Break Bottle', 749, 'A cricket ground seen from the top of the stand.'),
  ('water-bottles', 'WBMADHU', 'madhubani-fish-bottle', 'Madhubani Fish Bottle', 849, 'Fish in double line, as painted in Mithila.'),
  ('water-bottles', 'WBPLAIN', 'paani-bottle', 'Paani Bottle', 699, 'Says paani in eleven scripts.'),
  ('water-bottles', 'WBYOGA', 'surya-namaskar-bottle', 'Surya Namaskar Bottle', 799, 'Twelve figures around the bottle, one per sip.'),
  ('phone-cases', 'PCTRUCK', 'truck-art-phone-case', 'Truck Art Phone Case', 499, 'Buri nazar wale, tera bhi phone chamke.'),
  ('phone-cases', 'PCINDIGO', 'indigo-bandhani-phone-case', 'Indigo Bandhani Phone Case', 549, 'Tie-dye dots from Bhuj, photographed, not drawn.'),
  ('phone-cases', 'PCPIXEL', 'pixel-taj-phone-case', 'Pixel Taj Phone Case', 499, 'The Taj Mahal in 64 by 64 pixels.'),
  ('phone-cases', 'PCKOLAM', 'kolam-phone-case', 'Kolam Phone Case', 499, 'One unbroken line around twenty-five dots.'),
  ('phone-cases', 'PCSPACE', 'moon-lander-phone-case', 'Moon Lander Phone Case', 549, 'Grey regolith, small footprints of a rover.'),
  ('laptop-sleeves', 'LSIKAT', 'pochampally-ikat-laptop-sleeve', 'Pochampally Ikat Laptop Sleeve', 999, 'Diamonds with the blurred edge that only ikat has.'),
  ('laptop-sleeves', 'LSCIRCUIT', 'circuit-mandala-laptop-sleeve', 'Circuit Mandala Laptop Sleeve', 949, 'A mandala of copper traces; every via has a reason.'),
  ('laptop-sleeves', 'LSWARLI', 'warli-office-laptop-sleeve', 'Warli Office Laptop Sleeve', 949, 'Stick figures at a stand-up meeting, dancing afterwards.'),
  ('laptop-sleeves', 'LSNEWS', 'old-newspaper-laptop-sleeve', 'Old Newspaper Laptop Sleeve', 899, 'A front page from the day the monsoon was late.'),
  ('laptop-sleeves', 'LSJAMDANI', 'jamdani-laptop-sleeve', 'Jamdani Laptop Sleeve', 999, 'Muslin motifs on ink black.'),
  ('posters', 'POHAMPI', 'hampi-at-dusk-poster', 'Hampi at Dusk Poster', 399, 'Boulders, a stone chariot, and the last bus leaving.'),
  ('posters', 'POMUMBAI', 'mumbai-skyline-poster', 'Mumbai Skyline Poster', 399, 'From Cuffe Parade to Parel in one line.'),
  ('posters', 'POSPICES', 'spices-of-india-poster', 'Spices of India Poster', 449, 'Forty-two spices with their names in six languages.'),
  ('posters', 'POBIRDS', 'birds-of-the-deccan-poster', 'Birds of the Deccan Poster', 449, 'Thirty birds to tick off from the balcony.'),
  ('posters', 'PORAGA', 'raga-clock-poster', 'Raga Clock Poster', 499, 'Which raga at which hour, on a dial of twenty-four.'),
  ('canvas-prints', 'CVGHAT', 'banaras-ghats-canvas', 'Banaras Ghats Canvas', 1499, 'Boats at first light, painted from the river.'),
  ('canvas-prints', 'CVTREE', 'gulmohar-canvas', 'Gulmohar Canvas', 1399, 'A May tree that has set itself on fire.'),
  ('canvas-prints', 'CVCOW', 'pichwai-cows-canvas', 'Pichwai Cows Canvas', 1799, 'Temple-cloth cows from Nathdwara among lotuses.'),
  ('canvas-prints', 'CVFORT', 'jodhpur-blue-canvas', 'Jodhpur Blue Canvas', 1599, 'The blue houses from the fort wall.'),
  ('canvas-prints', 'CVBACK', 'backwaters-canvas', 'Backwaters Canvas', 1499, 'Alappuzha, one canoe, no wind.'),
  ('cushion-covers', 'CCAJRAKH', 'ajrakh-cushion-cover', 'Ajrakh Cushion Cover', 449, 'Madder and indigo stars in a strict grid.'),
  ('cushion-covers', 'CCKANTHA', 'kantha-cushion-cover', 'Kantha Cushion Cover', 499, 'Running stitch in six colours, printed life-size.'),
  ('cushion-covers', 'CCPARROT', 'mithu-cushion-cover', 'Mithu Cushion Cover', 449, 'A parrot who repeats what you said last night.'),
  ('cushion-covers', 'CCGOND', 'gond-deer-cushion-cover', 'Gond Deer Cushion Cover', 499, 'A deer whose antlers become a tree.'),
  ('cushion-covers', 'CCCHECK', 'madras-check-cushion-cover', 'Madras Check Cushion Cover', 399, 'Bleeding madras that does not bleed.'),
  ('tote-bags', 'TBSABZI', 'sabzi-list-tote', 'Sabzi List Tote', 349, 'Aloo, pyaaz, tamatar, dhaniya free.'),
  ('tote-bags', 'TBBOOK', 'daryaganj-books-tote', 'Daryaganj Books Tote', 399, 'For Sunday''s pavement finds.'),
  ('tote-bags', 'TBLOTUS', 'kalamkari-lotus-tote', 'Kalamkari Lotus Tote', 449, 'Drawn with a bamboo pen, printed with a machine.'),
  ('tote-bags', 'TBBEACH', 'gokarna-tote', 'Gokarna Tote', 399, 'Sunscreen, towel, a book you will not open.'),
  ('tote-bags', 'TBPLASTIC', 'no-plastic-bhaiya-tote', 'No Plastic, Bhaiya Tote', 349, 'Says it for you at every counter.'),
  ('caps', 'CPSHANTI', 'shanti-cap', 'Shanti Cap', 449, 'Peace, in one small embroidered word.'),
  ('caps', 'CPBLR', 'silk-board-cap', 'Silk Board Survivor Cap', 449, 'Awarded after the forty-fifth minute.'),
  ('caps', 'CPSUN', 'loo-cap', 'Loo Wind Cap', 399, 'For the hot wind of May, which needs no introduction.'),
  ('caps', 'CPCRIC', 'night-watchman-cap', 'Night Watchman Cap', 499, 'Last over of the day; somebody has to.'),
  ('caps', 'CPGOA', 'susegad-cap', 'Susegad Cap', 449, 'Goan for: later.'),
  ('notebooks', 'NBKHATA', 'khata-notebook', 'Khata Notebook', 299, 'The red shopkeeper''s ledger, made for ideas.'),
  ('notebooks', 'NBGRAPH', 'jantar-mantar-notebook', 'Jantar Mantar Notebook', 349, 'Graph paper behind an eighteenth-century sundial.'),
  ('notebooks', 'NBTAMIL', 'uyir-ezhuthu-notebook', 'Uyir Ezhuthu Notebook', 299, 'Twelve vowels of Tamil on the cover.'),
  ('notebooks', 'NBTRAIN', 'unreserved-notebook', 'Unreserved Notebook', 299, 'A railway ticket, enlarged; seat not guaranteed.'),
  ('notebooks', 'NBFERN', 'sahyadri-ferns-notebook', 'Sahyadri Ferns Notebook', 349, 'Botanical plates from the Western Ghats.'),
  ('stickers', 'STCHAI', 'chai-sticker-pack', 'Chai Sticker Pack', 149, 'Ten glasses, ten moods.'),
  ('stickers', 'STDEV', 'desi-developer-sticker-pack', 'Desi Developer Sticker Pack', 179, 'Git, but make it Hinglish.'),
  ('stickers', 'STCITY', 'city-lingo-sticker-pack', 'City Lingo Sticker Pack', 149, 'Bantai, machha, yaar, bhai, anna.'),
  ('stickers', 'STFOOD', 'chaat-sticker-pack', 'Chaat Sticker Pack', 149, 'Golgappa at life size.'),
  ('stickers', 'STFEST', 'festival-sticker-pack', 'Festival Sticker Pack', 179, 'Diyas, colours, stars, lanterns, moons.'),
  ('fridge-magnets', 'FMDOSA', 'masala-dosa-magnet', 'Masala Dosa Magnet', 129, 'Thirty centimetres of dosa in six.'),
  ('fridge-magnets', 'FMAUTO', 'auto-rickshaw-magnet', 'Auto Rickshaw Magnet', 129, 'Yellow and green; meter broken.'),
  ('fridge-magnets', 'FMTIFFIN', 'dabba-magnet', 'Dabba Magnet', 129, 'Four tiers, delivered on time since 1890.'),
  ('fridge-magnets', 'FMHAWA', 'hawa-mahal-magnet', 'Hawa Mahal Magnet', 149, 'All 953 windows, if you look closely.'),
  ('fridge-magnets', 'FMPAAN', 'meetha-paan-magnet', 'Meetha Paan Magnet', 129, 'Does not stain.');

-- ---- options: what a customer chooses within a product -----------------------------------------------------
CREATE TEMP TABLE seed_options (n serial, kind text, code text, options jsonb, extra_rupees int);
INSERT INTO seed_options (kind, code, options, extra_rupees)
SELECT 'tee', c.code || '-' || s.code, jsonb_build_object('colour', c.name, 'size', s.code), s.extra
FROM (VALUES (1, 'BLK', 'Black'), (2, 'WHT', 'White'), (3, 'NVY', 'Navy')) AS c (n, code, name),
     (VALUES (1, 'S', 0), (2, 'M', 0), (3, 'L', 0), (4, 'XL', 0), (5, 'XXL', 50)) AS s (n, code, extra)
ORDER BY c.n, s.n;
INSERT INTO seed_options (kind, code, options, extra_rupees) VALUES
  ('kids', '2Y', '{"age":"2-3 years"}', 0), ('kids', '4Y', '{"age":"4-5 years"}', 0),
  ('kids', '6Y', '{"age":"6-8 years"}', 0), ('kids', '9Y', '{"age":"9-12 years"}', 30),
  ('baby', '3M', '{"age":"0-3 months"}', 0), ('baby', '6M', '{"age":"3-6 months"}', 0), ('baby', '12M', '{"age":"6-12 months"}', 0),
  ('mug', '11OZ', '{"size":"325 ml"}', 0), ('mug', '15OZ', '{"size":"440 ml"}', 80),
  ('bottle', '500', '{"size":"500 ml"}', 0), ('bottle', '750', '{"size":"750 ml"}', 150),
  ('phone', 'IP15', '{"model":"iPhone 15"}', 0), ('phone', 'IP16', '{"model":"iPhone 16"}', 0),
  ('phone', 'S24', '{"model":"Galaxy S24"}', 0), ('phone', 'OP12', '{"model":"OnePlus 12"}', 0), ('phone', 'PX8', '{"model":"Pixel 8"}', 0),
  ('laptop', '13', '{"size":"13 inch"}', 0), ('laptop', '14', '{"size":"14 inch"}', 50), ('laptop', '16', '{"size":"16 inch"}', 150),
  ('poster', 'A4', '{"size":"A4"}', 0), ('poster', 'A3', '{"size":"A3"}', 200), ('poster', 'A2', '{"size":"A2"}', 400),
  ('canvas', '12X18', '{"size":"12 x 18 in"}', 0), ('canvas', '18X24', '{"size":"18 x 24 in"}', 700), ('canvas', '24X36', '{"size":"24 x 36 in"}', 1700),
  ('cushion', '16', '{"size":"16 x 16 in"}', 0), ('cushion', '20', '{"size":"20 x 20 in"}', 100),
  ('tote', 'NAT', '{"colour":"Natural"}', 0), ('tote', 'BLK', '{"colour":"Black"}', 0),
  ('cap', 'BLK', '{"colour":"Black"}', 0), ('cap', 'OLV', '{"colour":"Olive"}', 0),
  ('notebook', 'RUL', '{"paper":"Ruled"}', 0), ('notebook', 'DOT', '{"paper":"Dotted"}', 0),
  ('sticker', 'PACK', '{"count":"10"}', 0),
  ('magnet', '1', '{"count":"1"}', 0), ('magnet', '3', '{"count":"3"}', 200);

-- ---- into the shop -----------------------------------------------------------------------------------------
INSERT INTO categories (slug, name, description, sort_order)
SELECT slug, name, description, n * 10 FROM seed_categories ORDER BY n
ON CONFLICT (slug) DO NOTHING;

-- The "was" price is about 1.4 times the price, ending in 99; products appeared seven hours apart.
INSERT INTO products (category_id, slug, name, description, price_paise, mrp_paise, hsn, gst_rate_bp,
                      fulfillment_partner, created_at, updated_at)
SELECT c.id, p.slug, p.name, p.blurb || ' ' || s.care, p.rupees * 100,
       greatest(p.rupees, (round(p.rupees * 1.4 / 100) * 100 - 1)::int) * 100, s.hsn, s.gst_rate_bp, s.partner, t.at, t.at
FROM seed_products p
JOIN seed_categories s ON s.slug = p.category
JOIN categories c ON c.slug = p.category
CROSS JOIN LATERAL (SELECT timestamptz '2025-10-01 10:00+05:30' + p.n * interval '7 hours' AS at) t
ORDER BY p.n
ON CONFLICT (slug) DO NOTHING;

INSERT INTO product_images (product_id, storage_path, alt, position, width, height)
SELECT p.id, 'products/' || p.slug || '/' || v.view || '.webp', p.name || ', ' || v.alt, v.n, 1600, 1600
FROM seed_products s
JOIN products p ON p.slug = s.slug
CROSS JOIN (VALUES (1, 'front', 'front'), (2, 'back', 'back'), (3, 'detail', 'the print up close'),
                   (4, 'lifestyle', 'in use'), (5, 'packaging', 'as it arrives')) AS v (n, view, alt)
ORDER BY s.n, v.n
ON CONFLICT (product_id, position) DO NOTHING;

INSERT INTO inventory (sku, product_id, options, extra_paise, position, track, on_hand)
SELECT s.code || '-' || o.code, p.id, o.options, o.extra_rupees * 100,
       row_number() OVER (PARTITION BY s.n ORDER BY o.n), c.stock IS NOT NULL, coalesce(c.stock, 0)
FROM seed_products s
JOIN seed_categories c ON c.slug = s.category
JOIN seed_options o ON o.kind = c.kind
JOIN products p ON p.slug = s.slug
ORDER BY s.n, o.n
ON CONFLICT (sku) DO NOTHING;

INSERT INTO coupons (code, kind, value, max_discount_paise, min_subtotal_paise, starts_at, ends_at, usage_limit, per_user_limit) VALUES
  ('WELCOME10', 'percent',       1000, 20000,  49900, NULL, NULL, NULL, 1),     -- 10 %, at most Rs 200, first order
  ('FLAT100',   'flat',          10000, NULL,  79900, NULL, NULL, NULL, 5),     -- Rs 100 off from Rs 799
  ('FREESHIP',  'free_shipping', 0,     NULL,      0, NULL, NULL, NULL, 10),
  ('DIWALI25',  'percent',       2500, 50000,  99900, NULL, NULL, 500, 1),      -- the first 500 orders
  ('MONSOON20', 'percent',       2000, NULL,       0, '2025-06-15+05:30', '2025-09-15+05:30', NULL, 1)   -- over
ON CONFLICT (code) DO NOTHING;

-- A dozen customers and what they thought, so that sorting by rating has something to sort.
INSERT INTO users (id, email, name)
SELECT md5('seed:' || n.name)::uuid, lower(n.name) || '@example.in', n.name
FROM (VALUES ('Aarav'), ('Diya'), ('Kabir'), ('Ananya'), ('Ishaan'), ('Meera'), ('Rohan'), ('Saanvi'), ('Vikram'),
             ('Zoya'), ('Arjun'), ('Nandini')) AS n (name)
ON CONFLICT DO NOTHING;

INSERT INTO ratings (user_id, product_id, stars, verified, created_at)
SELECT u.id, p.id, 5 - (h.n % 7 = 0)::int - (h.n % 3 = 0)::int - (h.n % 11 = 0)::int, true, p.created_at + interval '30 days'
FROM seed_products s
JOIN products p ON p.slug = s.slug
JOIN users u ON u.email LIKE '%@example.in'
CROSS JOIN LATERAL (SELECT abs(hashtext(s.slug || u.email)) AS n) h
WHERE h.n % 5 < 3
ON CONFLICT (user_id, product_id) DO NOTHING;

UPDATE products p SET rating_sum = r.sum, rating_count = r.count
FROM (SELECT product_id, sum(stars) AS sum, count(*) AS count FROM ratings GROUP BY product_id) r
WHERE r.product_id = p.id AND (p.rating_sum, p.rating_count) IS DISTINCT FROM (r.sum, r.count);

DROP TABLE seed_categories, seed_products, seed_options;
