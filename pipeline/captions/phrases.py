"""What refusals, boilerplate and leaks look like in captions, as regular expressions over one caption.

Each list is read once into one expression: a caption is looked at a fixed number of times, however long the lists grow.
Refusals count where a caption begins with them, or where they speak of a machine: "I'm sorry" may well be said by a person on a sign.
"""

import regex

_REFUSALS = (
    # English: an apology followed by what cannot be done, or the inability at the start
    r"^\W*(?:oh |well )?(?:i'?m|i am|we(?:'re| are)) (?:so |very |truly )?(?:sorry|afraid|unable|not able)\b",
    r"^\W*(?:sorry|apologies|my apologies|unfortunately)[,.:;!]? (?:but )?(?:i|we|this|the|there|no|it)\b",
    r"^\W*i apologi[sz]e\b",
    r"^\W*(?:i|we) (?:can ?not|can'?t|could ?n[o']t|am unable|won'?t|do(?: not|n'?t) (?:have|see)|must decline)\b",
    r"\bas an? (?:ai|a\.i\.|artificial intelligence|(?:large )?language model|visual assistant|text-based)\b",
    r"\b(?:i|we)(?:'m| am|'re| are)? (?:can ?not|can'?t|unable to|not able to|do(?: not|n'?t) have the ability to) "
    r"(?:help|assist|provide|process|view|see|access|identify|describe|comply|fulfil+|analy[sz]e|determine|generate|open|display)\b",
    r"\bunable to (?:view|process|access|open|analy[sz]e|assist with|provide a description of) (?:the|this|that|your|any|an?) ?"
    r"(?:image|picture|photo|file|audio|video|request|content)",
    r"^\W*(?:there is )?no (?:image|picture|photo|audio|video)(?: (?:was|is|has been))? (?:provided|attached|available|uploaded|to describe)",
    r"^\W*(?:please|could you) (?:provide|upload|attach|share|send)\b.{0,40}\b(?:image|picture|photo|audio|video|file)",
    # other languages
    r"^\W*(?:es tut mir leid|entschuldigung|tut mir leid|leider kann ich|ich kann (?:das|dieses|diese|dir|ihnen|leider)\b.{0,40}\bnicht)",
    r"^\W*(?:je suis (?:désolée?|navrée?)|désolée?[,.]|je ne (?:peux|suis) pas (?:en mesure|capable|voir|décrire|identifier|aider|vous)|malheureusement, je)",
    r"^\W*(?:lo siento|lo lamento|perdón[,.]|no puedo (?:ayudar|ver|describir|identificar|proporcionar)|lamentablemente, no)",
    r"^\W*(?:desculpe|sinto muito|não (?:posso|consigo) (?:ajudar|ver|descrever|identificar))",
    r"^\W*(?:mi dispiace|spiacente|non posso (?:aiutare|vedere|descrivere|identificare))",
    r"^\W*(?:извините|к сожалению|простите|я не могу)",
    r"^\W*(?:很?抱歉|对不起|對不起|我(?:无法|無法|不能)|作为(?:一个|一個)?(?:人工智能|ai|语言模型))",
    r"(?:申し訳(?:ありません|ございません)|ごめんなさい|(?:お手伝い|説明|回答|特定)(?:することは)?できません)",
    r"(?:죄송합니다|죄송하지만|할 수 없습니다)",
)
REFUSAL = regex.compile("|".join(f"(?:{one})" for one in _REFUSALS), regex.IGNORECASE)
MACHINE = regex.compile(
    r"\bas an? (?:ai|artificial intelligence)(?: language)?(?: model| assistant)?\b|\b(?:large )?language model\b|作为(?:一个)?人工智能",
    regex.IGNORECASE,
)
"""The part of it that people do not say into a microphone."""

_MEDIUM = (
    r"(?:image|picture|photo|photograph|photography|pic|snapshot|screenshot|illustration|video|clip|footage|recording|audio|scene|frame)s?"
)
_QUALITY = r"(?:(?:black and white|close[- ]?up|stock|beautiful|high quality|detailed|color|colour|given|provided|attached|first|short) )*"
_SHOWS = (
    r"(?:shows?|depicts?|features?|displays?|captures?|contains?|presents?|portrays?|showcases?|illustrates?|is (?:of|showing|about|"
    r"a|an)|appears? to|consists? of|opens? with|begins? with|seems? to)"
)
_BOILERPLATE = (
    rf"^\W*(?:this|the|that|your) {_QUALITY}{_MEDIUM} {_SHOWS}\b",
    rf"^\W*this is an? {_QUALITY}(?:close[- ]?up )?{_MEDIUM}\b",
    r"^\W*(?:here is|here's|here are) (?:an?|the|your|my) .{0,30}(?:description|caption|summary|transcript|transcription)",
    rf"^\W*in (?:this|the) {_QUALITY}{_MEDIUM}\b",
    rf"^\W*an? {_QUALITY}{_MEDIUM} (?:of|showing|depicting|featuring|with)\b",
    rf"^\W*{_MEDIUM} (?:of|showing|depicting)\b",
    r"^\W*(?:we|you|one|i) can (?:see|observe|hear)\b",
    r"^\W*i (?:see|hear)\b",
    r"^\W*(?:sure|certainly|of course|absolutely|okay|great)[!,.]+ ",
    r"^\W*(?:caption|description|answer|output|response|transcript|transcription|alt[- ]text)\s*:",
    r"^\W*(?:das|dieses|auf dem|auf diesem|in diesem) (?:bild|foto|video)(?:s|es)? (?:zeigt|sieht|ist|sehen|kann)\b",
    r"^\W*(?:cette|l'|sur cette|dans cette) ?(?:image|photo|vidéo)(?:,| montre| représente| on)",
    r"^\W*(?:esta|la|en esta|en la) (?:imagen|foto|fotografía)(?:,| muestra| se)",
    r"^\W*(?:这|這)(?:张|張|幅|是一张|是一張)?(?:图片|圖片|图像|照片|图)|^\W*(?:图中|圖中|画面中|照片中)",
    r"^\W*(?:この(?:画像|写真)(?:は|に|には|では)|画像には)",
    r"^\W*(?:на (?:этом |данном )?(?:изображении|фото|фотографии|картинке))",
)
BOILERPLATE = regex.compile("|".join(f"(?:{one})" for one in _BOILERPLATE), regex.IGNORECASE)

_MARKUP = (
    r"<\|[^|>]{0,40}\|>",  # <|im_end|>, <|0.00|>
    r"</?(?:s|pad|unk|bos|eos|mask|image|img|audio|video|box|ref|quad|loc|loc_?\d+|bbox|think|answer|start_of_turn|end_of_turn|fake_token\w*)\b[^>]{0,40}/?>",
    r"\[/?(?:INST|SYS|CLS|SEP|PAD|UNK|MASK|IMG|BOS|EOS|IMAGE)\]|<<SYS>>",
    r"</?(?:p|br|div|span|b|i|u|em|strong|a|ul|ol|li|h[1-6]|table|tr|td|font|html|body)\b[^<>]{0,80}/?>",
    r"&(?:amp|lt|gt|quot|nbsp|apos|#\d{1,6}|#x[0-9a-f]{1,5});",
    r"\*\*[^*\n]{1,200}\*\*|^\s{0,3}#{1,6} \S|```|^\s*[-*] .{1,200}\n\s*[-*] ",
    r"^\W*\{\s*\"[^\"\n]{1,40}\"\s*:|^\W*\[\s*\{\s*\"",
    r"(?:^|\n|[.!?] )\s*(?:user|human|assistant|system|question|instruction)\s*:\s",
    r"###\s*(?:human|assistant|instruction|response)",
    r"\bhttps?://\S+|\bwww\.\S+\.\S+",
    r"!?\[[^\]\n]{0,80}\]\([^)\n]{1,200}\)",
    r"\uFFFD|Ã[\x80-\xBF©¨¼¶¤]|â€[™œ\x9d\"“”]",  # bytes decoded as what they are not
    r"\\u[0-9a-f]{4}|\\n",
)
MARKUP = regex.compile("|".join(f"(?:{one})" for one in _MARKUP), regex.IGNORECASE | regex.MULTILINE)
NUMBERS = regex.compile(
    r"[\[(]\s*\d*\.?\d+(?:\s*,\s*\d*\.?\d+){2,}\s*[\])]"  # a box: [12, 30, 200, 310]
    r"|\b\d*\.\d+(?:\s*[,; ]\s*\d*\.\d+){2,}"  # coordinates
    r"|(?<![\w.])\d{9,}(?![\w.])"  # an id
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\b\w+\.(?:jpe?g|png|webp|gif|mp4|wav|mp3|flac)\b",
    regex.IGNORECASE,
)
