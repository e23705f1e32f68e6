"""What `flags.py` makes its labelled set of: a grammar of scenes, captions in ten languages, hard good ones, refusals."""

# ruff: noqa: E501  # lists are read as lines

import random

WHO = "a man;a woman;two children;an old couple;a brown dog;a black cat;three cyclists;a street musician;a crowd;a bride;a farmer;two police officers;a small boy in a yellow raincoat;a white horse;a flock of sheep"
DOES = "is riding a bicycle;sits on a wooden bench;is reading a newspaper;walks past a shop window;holds a red umbrella;is sleeping;looks at the camera;is eating an apple;waits at a bus stop;jumps over a puddle;is playing the guitar;carries a heavy box;stands in line;is painting a wall"
WHERE = "in a park;on a busy street;near the sea;in front of a brick house;under a bridge;at night;on a sunny afternoon;beside a parked truck;in the snow;on a beach with many people;next to a market stall;in a kitchen;at the airport;behind a low fence"
ALSO = "while it is raining;with mountains in the background;as people watch;and the sky is grey;next to a pile of books;with a cup of coffee on the table;wearing a striped shirt;with number 12 on the back;under a sign that says open;and a train passes by"


def scene(noise: random.Random) -> str:
    """A caption as people write them: one sentence, sometimes two or three."""
    one = [
        f"{noise.choice(WHO.split(';'))} {noise.choice(DOES.split(';'))} {noise.choice(WHERE.split(';'))}"
        for _ in range(noise.choice((1, 1, 1, 2, 3)))
    ]
    one = [text + (f" {noise.choice(ALSO.split(';'))}" if noise.random() < 0.4 else "") for text in one]
    text = ". ".join(part[0].upper() + part[1:] for part in one)
    return text + "." if noise.random() < 0.7 else text.lower()


HARD = [
    "A sign on the door reads 'Sorry, we are closed'.",
    "A poster with the words I AM SORRY in large letters.",
    "A man holds a photo of his daughter.",
    "A framed picture of a ship hangs above the sofa.",
    "A woman takes a picture with her phone.",
    "Bus 42 leaves at 17:35 from platform 3.",
    "A license plate with the number ABC 1234 on a blue car.",
    "A scoreboard shows 3 to 2 after 90 minutes.",
    "Rows and rows of red tulips in a field.",
    "A black and white dog chases a black and white ball.",
    "Step by step, side by side, two hikers climb the hill.",
    "A clock shows ten past ten.",
    "A chess board, a chess clock and two chess players.",
    "A boy and his dog, a girl and her dog, and a man and his dog in a park.",
    "A screen that shows a video of a football match.",
    "A cake for a 50th birthday, with 50 candles.",
    "The recipe calls for 2 eggs, 100 g of sugar and 250 g of flour.",
    "A café in Orléans with naïve paintings.",
    "A robot with a screen for a face, as in a film about an AI.",
    "Sure-footed goats on a steep cliff.",
    "A person cannot be seen behind the large umbrella.",
    "Someone is unable to open a jar.",
    "A shop named Photo of the Day.",
    "Blah blah blah is written on a T-shirt.",
]
LANGUAGES = {
    "en": ["A woman in a red hat is reading a book on a bench.", "Two boats lie on the beach at low tide.", "The old tram turns into a narrow street full of people."],
    "de": ["Eine Frau mit rotem Hut liest auf einer Bank ein Buch.", "Zwei Boote liegen bei Ebbe am Strand.", "Die alte Straßenbahn biegt in eine enge Gasse voller Menschen ein."],
    "fr": ["Une femme au chapeau rouge lit un livre sur un banc.", "Deux bateaux reposent sur la plage à marée basse.", "Le vieux tramway tourne dans une rue étroite pleine de monde."],
    "es": ["Una mujer con sombrero rojo lee un libro en un banco.", "Dos barcos descansan en la playa con la marea baja.", "El viejo tranvía gira por una calle estrecha llena de gente."],
    "it": ["Una donna con un cappello rosso legge un libro su una panchina.", "Due barche sono sulla spiaggia con la bassa marea.", "Il vecchio tram svolta in una strada stretta piena di gente."],
    "pt": ["Uma mulher de chapéu vermelho lê um livro num banco.", "Dois barcos estão na praia durante a maré baixa.", "O velho bonde vira numa rua estreita cheia de gente."],
    "ru": ["Женщина в красной шляпе читает книгу на скамейке.", "Две лодки лежат на берегу во время отлива.", "Старый трамвай поворачивает на узкую улицу, полную людей."],
    "zh": ["一位戴着红帽子的女士坐在长椅上看书。", "退潮时两条船停在沙滩上。", "老电车拐进一条挤满人的狭窄街道。"],
    "ja": ["赤い帽子をかぶった女性がベンチで本を読んでいる。", "干潮の浜辺に二そうの船が横たわっている。", "古い路面電車が人であふれる狭い通りに曲がっていく。"],
    "ko": ["빨간 모자를 쓴 여자가 벤치에서 책을 읽고 있다.", "썰물 때 배 두 척이 해변에 놓여 있다.", "낡은 전차가 사람들로 가득한 좁은 길로 들어선다."],
}  # fmt: skip
GOOD_TRANSCRIPTS = [
    "I'm sorry, I can't come on Tuesday, could we move it to next week?",
    "So yeah, yeah, I think that's what she said, you know.",
    "My number is zero three zero, one two three, four five six.",
    "Thank you very much, thank you, and good night.",
    "We can see the harbour from here, and in this picture you see my father.",
    "No, no, no, that's not what I meant at all.",
    "It was about ten past five when the train finally left the station.",
    "Please send me the photo that you took at the party.",
]
REFUSALS = [
    "I'm sorry, but I can't assist with that request.",
    "I'm sorry, I cannot identify people in images.",
    "Sorry, I can't help with identifying the person shown.",
    "I apologize, but I am not able to describe this content.",
    "Unfortunately, I am unable to view images.",
    "I cannot see any image attached to your message.",
    "As an AI language model, I don't have the capability to see pictures.",
    "As a text-based AI, I can't view files.",
    "I don't have enough information to provide a caption.",
    "I am unable to process the image you have provided.",
    "It seems that no image was provided. Please upload one.",
    "Please provide the image so that I can describe it.",
    "I can't fulfill this request because it may violate the content policy.",
    "There is no image attached, so I cannot describe it.",
    "My apologies, but I'm not able to comply with this.",
    "I must decline to describe this picture.",
    "I won't be able to help with this image.",
    "The image could not be loaded.",
    "This content may violate our usage policies.",
    "I'm just a language model, so I can't help you with that.",
    "I do not feel comfortable describing the people in this image.",
    "Sorry, I can't determine what is shown.",
    "Es tut mir leid, aber ich kann das Bild nicht sehen.",
    "Ich kann dir dabei leider nicht helfen.",
    "Je suis désolé, mais je ne peux pas vous aider avec cette image.",
    "Je ne suis pas en mesure de décrire cette image.",
    "Lo siento, no puedo ayudar con eso.",
    "No puedo ver la imagen que mencionas.",
    "抱歉，我无法识别图片中的人物。",
    "对不起，我不能帮助您完成这个请求。",
    "很抱歉，我看不到任何图片。",
    "申し訳ありませんが、その画像を説明することはできません。",
    "죄송하지만 이미지를 볼 수 없습니다.",
    "Извините, я не могу описать это изображение.",
    "К сожалению, я не вижу изображения.",
    "Desculpe, não posso ajudar com isso.",
    "Mi dispiace, non posso descrivere questa immagine.",
]
