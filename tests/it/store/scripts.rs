//! Search for words in different scripts.

use rstest_reuse::apply;

use crate::{
    each_deployment,
    support::{
        databases::{Database, Kind},
        search::{in_room, in_rooms_of, numbers, with_room},
        store::user_id,
    },
};

/// A text, words that find it, and words that do not.
type Line = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const LINES: &[Line] = &[
    (
        "我家在上海东边。",
        &["上海", "海", "上海东边", "我家 上海", "上海东边。"],
        &["海上", "上东", "北京", "上海西"],
    ),
    (
        "上有天堂，海内存知己，海东",
        &["海东", "海"],
        &["上海", "上海东"],
    ),
    (
        "東京タワーへ行きました",
        &["東京", "タワー", "京タ", "行き", "た", "ﾀﾜｰ"],
        &["タワ東", "京都", "ダワー"],
    ),
    (
        "カキクケコ がぎぐげご",
        &["ｶｷ", "か\u{3099}き\u{3099}"],
        &["ガギ", "かき"],
    ),
    (
        "ผมอยู่กรุงเทพมหานคร",
        &["กรุงเทพ", "อยู่", "มหานคร", "ก"],
        &["เชียงใหม่", "เทพกรุง"],
    ),
    ("ม้าตัวใหญ่", &["ม้า", "ใหญ่"], &["มา", "ไหญ่"]),
    ("ຂ້ອຍຢູ່ນະຄອນຫຼວງວຽງຈັນ", &["ວຽງຈັນ", "ນະຄອນ"], &["ຫຼວງພະບາງ"]),
    (
        "ខ្ញុំរស់នៅក្នុងទីក្រុងភ្នំពេញ",
        &["ភ្នំពេញ", "ទីក្រុង", "ភ្នំ\u{200b}ពេញ"],
        &["សៀមរាប"],
    ),
    ("ကျွန်တော် ရန်ကုန်မြို့မှာ နေပါတယ်", &["ရန်ကုန်", "မြို့"], &["မန္တလေး"]),
    (
        "저는 서울에서 살아요 ㅋㅠㅠ",
        &[
            "서울",
            "서울에서",
            "울에",
            "살아",
            "ㅠㅠ",
            "\u{1109}\u{1165}울",
        ],
        &["부산", "서에"],
    ),
    (
        "हिन्दी में किताब",
        &["हिन्दी", "किताब"],
        &["हिनदी", "कताब", "हिन"],
    ),
    ("தமிழ் மொழி", &["தமிழ்"], &["தமழ"]),
    ("مُحَمَّد في الأردن کتاب", &["محمد", "الاردن", "كتاب"], &["حمد"]),
    ("שָׁלוֹם עולם", &["שלום", "עולם"], &["שלו"]),
    (
        "Die Straße nach Gießen",
        &["STRASSE", "strasse", "STRAẞE", "giessen"],
        &["strase"],
    ),
    (
        "İstanbul'da ışık var",
        &["istanbul", "ISTANBUL", "ısik", "IŞIK", "işık"],
        &["stanbul"],
    ),
    (
        "Ὀδυσσεύς ὁδός",
        &["ΟΔΥΣΣΕΥΣ", "οδυσσευς", "ΟΔΌΣ"],
        &["οδυσσευ"],
    ),
    (
        "Ёлка, май и мой чай",
        &["елка", "ЁЛКА", "май", "чай"],
        &["маи", "мои"],
    ),
    ("Київ і Львів", &["київ", "КИЇВ"], &["киив"]),
    (
        "Łódź, Đà Nẵng, Ærø, cœur",
        &["lodz", "da nang", "aero", "coeur", "ŁÓDŹ"],
        &["odz"],
    ),
    (
        "Crème brûlée à la carte ﬁn",
        &["creme", "BRULEE", "cre\u{300}me", "fin", "ﬁn"],
        &["crem"],
    ),
    (
        "Ｆｕｌｌ ｗｉｄｔｈ １２３",
        &["full", "width", "123"],
        &["12"],
    ),
    (
        "soft\u{ad}hyphen zero\u{200b}width",
        &["softhyphen", "zero", "width"],
        &["soft", "zerowidth"],
    ),
    (
        "iPhone手机3月开卖ABC",
        &["iphone", "手机", "3月", "开卖 abc", "IPHONE手机"],
        &["手 phone", "机手"],
    ),
    ("gut gemacht 👍🏽!", &["👍", "👍🏽", "gemacht👍"], &["👍🏿", "👎"]),
    ("plain 👎 done", &["👎"], &["👎🏽"]),
    ("family 👨‍👩‍👧 here", &["👨‍👩‍👧"], &["👨‍👩‍👦", "👩‍👧"]),
    ("I ❤️ you", &["❤", "❤️", "❤\u{fe0e}"], &["💔"]),
    ("flags 🇩🇪🇫🇷", &["🇩🇪", "🇫🇷"], &["🇪🇫", "🇩🇰"]),
    ("🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏳️‍🌈", &["🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🏳‍🌈", "🏳️‍🌈"], &["🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🏳️"]),
    ("press 1️⃣ now", &["1️⃣", "1\u{20e3}", "press"], &["2️⃣"]),
];

#[apply(each_deployment)]
#[tokio::test]
async fn words_of_every_script_are_found_before_and_after_indexing(kind: Kind) {
    let database = Database::new(kind).await;
    let texts: Vec<_> = LINES.iter().map(|(text, ..)| *text).collect();
    let (store, room) = with_room(&database, &texts).await;
    for state in ["not indexed", "indexed"] {
        for ((text, present, absent), n) in LINES.iter().zip(1_u64..) {
            for scope in [in_room(&room), in_rooms_of(user_id(1))] {
                for words in *present {
                    assert!(
                        numbers(&store, scope, words).await.contains(&n),
                        "{words} in {text} ({state})"
                    );
                }
                for words in *absent {
                    assert!(
                        !numbers(&store, scope, words).await.contains(&n),
                        "{words} in {text} ({state})"
                    );
                }
            }
        }
        database.indexed().await;
    }
}
