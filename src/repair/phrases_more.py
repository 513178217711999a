"""Where a target stands in German, French, Spanish, Italian, Portuguese, Polish, Chinese, Japanese.

Knows wordings only, as ``repair.phrases`` does for English.
"""

from __future__ import annotations

from repair.phrases import language

_SPLIT = (
    r"(?<!alles)(?<!tout)(?<!todo)(?<!tutto)(?<!tudo)(?<!wszystko)(?<!das)"
    r"\s*(?:,\s*|\b(?:und|et|y|e|i|oraz)\s+)(?=(?:wo|wer|wann|wie|was|où|qui|quand|comment|dónde|"
    r"quién|cuándo|cómo|dove|chi|quando|come|onde|quem|como|gdzie|kto|kiedy|jak|die|der|das|"
    r"seine|ihre|le|la|l['’]|son|sa|el|su|il|lo|o|a)\b)"
)

GERMAN = language(
    forget=(
        r"\b(?:vergisst|vergessen|löschst|löschen|verlernst|verlernen|weißt|wüsstest)(?: nicht(?: "
        r"mehr)?)?"
        r"\s*,\s*(?P<t>(?:wo|wer|wie|was|wann|mit wem|wem|für wen|bei wem|woher)\b.+)",
        r"\b(?:vergiss|vergesst|vergessen sie|lösche?|löscht|löschen sie|entfernen?(?: sie)?|tilge|"
        r"streiche?|verlerne?|radiere?|vergess)\b\s*(?:bitte|mal|doch|auch|sofort|ganz "
        r"schnell)*,?\s*"
        r"(?P<t>\S.+?)(?:\s+aus (?:deinem|ihrem) .*)?$",
        r"\b(?:dass|wenn|kannst|könntest|würdest|sollst|solltest|musst|darfst|können|könnten|"
        r"würden)\s+"
        r"(?:du|sie)?\s*(?:bitte|mir)?\s*,?\s*(?P<t>(?!du\b)\S.*?)\s*,?\s*\b(?:vergisst|vergessen|"
        r"löschst|"
        r"löschen|verlernst|verlernen|entfernen|entfernst|aus (?:deinem|ihrem)|nicht mehr|nie|noch|"
        r"weißt|wissen|wüsstest|verrätst)\b",
        r"\b(?:löschung|entfernung)\s+(?P<t>.+)",
        r"\b(?:wüsstest|weißt|kennst|kenntest)\b\s*(?:nicht(?: mehr)?)?,?\s*(?P<t>.+)",
        r"\b(?:du|sie) (?:sollst|musst|darfst)\s+(?P<t>.+?)\s+\S+$",
    ),
    restore=(
        r"\b(?:stelle?|hole?|bringe?|gib)\s+(?:bitte )?(?:mir )?(?P<t>.+?)\s+(?:wieder|zurück)",
        r"\berinner\w* dich\s+(?:bitte )?(?:wieder |erneut )*(?:an )?(?P<t>.+)",
        r"\bdu (?:darfst|kannst)\s+(?:jetzt )?(?P<t>.+?)\s+wieder\b",
        r"\b(?:merk\w*|lern\w*)\s+(?:dir )?(?:wieder )?(?P<t>.+?)(?:\s+wieder)?$",
    ),
    that=r"(?:das|dies|dieses|es|davon|daran)(?: wieder)?|(?:alles|das)?,? ?was du (?:gerade|eben|"
    r"zuletzt)?"
    r" ?\w+ hast|(?:deine|die|diese|ihre) (?:letzte |vorige )?(?:antwort|aussage|änderung|"
    r"bearbeitung)",
    person=r"sie|ihn|ihm|ihr|er|(?:diese|die) (?:person|frau)|diesen mann",
    possessive=r"\b(?:seine|ihre)[rnms]?\s+(?P<t>\w.*)",
    owned="{t} von {name}",
    subject=r"\b(?:er|sie|ihn|ihm|ihr)\b",
    trail=r"bitte|sofort|endgültig|für immer|wieder|jetzt|danke|ok|komplett|vollständig|"
    r"aus (?:deinem|ihrem|dem) \w+",
    split=_SPLIT,
    change=(
        r"\b(?:ändere|ändern sie|korrigiere|berichtige|aktualisiere)\s+(?P<t>.+?)\s+(?:zu|in|"
        r"auf)\s+(?P<r>.+)",
        r"^nicht (?P<t>.+?), sondern (?P<r>.+)",
    ),
    lead=r"nein|nee|nö|falsch|das ist veraltet|veraltet|du irrst dich|fast|eigentlich|tatsächlich|"
    r"in wirklichkeit|korrektur|quatsch|das (?:ist|"
    r"war) (?:so )?"
    r"(?:falsch|nicht richtig|nicht wahr)|das stimmt (?:so )?nicht|merke? dir(?: bitte)?(?:, "
    r"dass)?|"
    r"bitte merke? dir(?:, dass)?",
    value=r"(?:es|das|sie|er|richtig|richtig wäre|die (?:richtige |korrekte )?antwort)\s+(?:ist|"
    r"lautet|war|"
    r"muss heißen|heißt|wohnt in|lebt in|arbeitet bei)",
    verbs=r"^(?:(?P<v2>wohnt|lebt|arbeitet)\s+)?(?P<t>.+?)\s+(?P<v>wohnt|lebt|arbeitet|ist|lautet|"
    r"war|"
    r"wurde|heißt|hat|in|bei)\s+(?:jetzt |nun )?(?:in |bei |am |von )?(?P<r>.+)",
    copula=r"ist|lautet|war|heißt",
)

FRENCH = language(
    forget=(
        r"\b(?:oublie[srz]?|d['’]oublier|efface[srz]?|supprime[srz]?|enlève|retire[srz]?|"
        r"désapprends?|oubliiez|effaciez)\b(?:-moi)?\s*(?:s['’]il (?:te|vous) plaît|stp)?[, "
        r"]*(?P<t>.+)",
        r"\b(?:saches?|sachiez|savoir|connaître|connaisses|connaissiez|souvenir|rappeler)\s+"
        r"(?:plus |pas )?(?P<t>.+)",
        r"\b(?:effacement|suppression)\s+(?:de |des |du |d['’])?(?P<t>.+)",
    ),
    restore=(
        r"\b(?:restaure[rz]?|rétabli\w*|remets|remettez|ramène|rends-moi|"
        r"récupère[rz]?)\s+(?P<t>.+)",
        r"\b(?:souviens-toi|rappelle-toi|souvenez-vous|rappelez-vous)\s+(?:de nouveau |à nouveau )?"
        r"(?:de |d['’]|du )?(?P<t>.+)",
        r"\b(?:savoir|connaître)\s+(?P<t>.+)",
    ),
    that=r"(?:ça|cela|ceci|le|la|tout ça)|(?:ta|votre|la|cette) (?:dernière |précédente "
    r")?(?:réponse|"
    r"modification)|(?:tout )?ce que (?:tu (?:viens|as)|vous (?:venez|avez)) .*",
    person=r"lui|elle|eux|cette personne|cet homme|cette femme",
    possessive=r"\b(?:son|sa|ses|leurs?)\s+(?P<t>\w.*)",
    owned="{t} de {name}",
    subject=r"\b(?:il|elle|lui)\b",
    trail=r"s['’]il (?:te|vous) plaît|stp|svp|maintenant|merci|tout de suite|définitivement|"
    r"pour toujours|à nouveau|de nouveau|de (?:ta|votre) mémoire",
    split=_SPLIT,
    change=(
        r"\b(?:change[rz]?|corrige[rz]?|modifie[rz]?|remplace[rz]?)\s+(?P<t>.+?)\s*(?:\ben\b|:|"
        r"\bpar\b|\bà\b)\s+"
        r"(?P<r>.+)",
        r"ce n['’]est pas (?P<t>.+?),? mais (?P<r>.+)",
    ),
    lead=r"non|faux|en fait|en réalité|correction|c['’]est (?:faux|incorrect|inexact)|ce n['’]est "
    r"pas (?:vrai|"
    r"exact|ça)|tu te trompes|vous vous trompez|(?:retiens|note|souviens-toi|apprends) que",
    value=r"(?:c['’]est|c['’]était|elle est|il est|la (?:bonne )?réponse est)",
    verbs=r"^(?P<t>.+?)\s+(?P<v>habite|vit|travaille|est née?|a été construit\w*|est|était|a)\s+"
    r"(?:à |au |en |chez |par |le )?(?P<r>.+)",
    copula=r"est|était",
)

SPANISH = language(
    forget=(
        r"\b(?:olv[ií]d\w+|b[oó]rr\w+|elimin\w+|suprim\w+|quit[ae]|desaprend\w+)\b\s*"
        r"(?:por favor)?,?\s*(?:de )?(?P<t>\S.+)",
        r"\b(?:sepas|supieras|saber|recuerdes|recordaras|recordar|conozcas)\s+(?:más |ya "
        r")?(?P<t>.+)",
        r"\b(?:supresión|eliminación|borrado)\s+(?:de |del )(?P<t>.+)",
    ),
    restore=(
        r"\b(?:restaura\w*|recupera\w*|devuelve\w*|recuerda|acuérdate|aprende|recordar|saber)\s+"
        r"(?:otra vez |de nuevo )?(?:de )?(?P<t>.+)",
    ),
    that=r"(?:eso|esto|aquello|lo|todo eso)|(?:tu|la|su|esa) (?:última )?(?:respuesta|edición)|"
    r"lo (?:último )?que (?:acabas de|me|has|dijiste|acaba de).*|el último cambio",
    person=r"(?:de )?(?:él|ella|ellos|ellas|esa persona|esa mujer|ese hombre)",
    possessive=r"\bsus?\s+(?P<t>\w.*)",
    owned="{t} de {name}",
    subject=r"\b(?:él|ella)\b",
    trail=r"por favor|ahora|para siempre|gracias|ya|de inmediato|otra vez|de nuevo|"
    r"de (?:tu|su) memoria",
    split=_SPLIT,
    change=(
        r"\b(?:cambia|corrige|actualiza|modifica)\s+(?P<t>.+?)\s+(?:a|por|en)\s+(?P<r>.+)",
        r"^no es (?P<t>.+?),? sino (?P<r>.+)",
    ),
    lead=r"no|falso|incorrecto|en realidad|de hecho|corrección|(?:eso )?(?:está mal|es falso|es "
    r"incorrecto|"
    r"no es (?:cierto|verdad|correcto))|te equivocas|(?:recuerda|anota|aprende) que",
    value=r"(?:es|era|la respuesta(?: correcta)? es|vive en|trabaja en)",
    verbs=r"^(?P<t>.+?)\s+(?P<v>vive|trabaja|nació|fue construid[oa]|es|era|está)\s+(?:en |por |"
    r"el )?(?P<r>.+)",
    copula=r"es|era",
)

ITALIAN = language(
    forget=(
        r"\b(?:dimentic\w+|scorda\w*|cancell(?!azione)\w+|elimin\w+|rimuov\w+|disimpara\w*|"
        r"togli\w*)\b\s*"
        r"(?:per favore)?,?\s*(?:di )?(?P<t>\S.+)",
        r"\b(?:sapere|ricordare|sapessi|sappia|conoscere|conoscessi)\s+(?:più )?(?P<t>.+)",
        r"\bcancellazione\s+(?:di |del |dei |della |delle |dell['’])(?P<t>.+)",
    ),
    restore=(
        r"\b(?:ripristina\w*|recupera\w*|riporta(?: indietro)?|ricorda\w*|impara|sapere|"
        r"ricordare)\s+"
        r"(?:di nuovo |ancora )?(?:di )?(?P<t>.+)",
    ),
    that=r"(?:questo|quello|ciò|tutto ciò|lo)|(?:la (?:tua |sua )?|l['’])(?:ultima )?(?:risposta|"
    r"modifica)|"
    r"(?:quello|ciò) che (?:hai|ha|mi hai) .*",
    person=r"(?:di )?(?:lui|lei|loro|quella persona|quella donna|quell['’]uomo)",
    possessive=r"\b(?:il|la|i|le) (?:suo|sua|suoi|sue)\s+(?P<t>\w.*)",
    owned="{t} di {name}",
    subject=r"\b(?:lui|lei)\b",
    trail=r"per favore|adesso|subito|grazie|per sempre|di nuovo|dalla (?:tua|sua) memoria",
    split=_SPLIT,
    change=(
        r"\b(?:cambia|correggi|aggiorna|modifica)\s+(?P<t>.+?)\s+(?:in|con|a)\s+(?P<r>.+)",
        r"^non è (?P<t>.+?),? (?:ma|bensì) (?P<r>.+)",
    ),
    lead=r"no|falso|sbagliato|in realtà|veramente|correzione|(?:questo )?(?:è (?:sbagliato|falso|"
    r"errato)|"
    r"non è (?:vero|giusto|corretto))|ti sbagli|(?:ricorda|ricordati|impara) che",
    value=r"(?:è|era|la risposta (?:giusta|corretta|esatta) è|vive a|abita a|lavora a)",
    verbs=r"^(?P<t>.+?)\s+(?P<v>vive|lavora|abita|è nat[oa]|è stat[oa] costruit[oa]|è|era)\s+"
    r"(?:a |in |da |il |presso )?(?P<r>.+)",
    copula=r"è|era",
)

PORTUGUESE = language(
    forget=(
        r"\b(?:esque[cç]\w*|apag(?!amento)\w+|elimin(?!ação)\w+|remov\w+|remova|desaprend\w+|"
        r"exclu\w+)\b(?:-se|-te)?\s*"
        r"(?:por favor)?,?\s*(?:de )?(?P<t>\S.+)",
        r"\b(?:sab\w+|soub\w+|lembr\w+|saber)\s+(?:mais )?(?P<t>.+)",
        r"\b(?:apagamento|eliminação|exclusão)\s+(?:de |do |da |dos |das )(?P<t>.+)",
    ),
    restore=(
        r"\b(?:traz|traga)\s+(?P<t>.+?)\s+de volta",
        r"\b(?:restaur\w+|recuper\w+|lembr\w+(?:-te|-se)?|saber|aprend\w+)\s+"
        r"(?:de novo |outra vez |novamente )?(?:de |do |da )?(?P<t>.+)",
    ),
    that=r"(?:isso|isto|aquilo|tudo isso)|(?:a )?(?:tua|sua|essa)? ?última (?:resposta|edição|"
    r"alteração)|"
    r"(?:a tua|a sua|essa) resposta|o que (?:acab\w+|você acabou|você disse|disseste|me).*",
    person=r"(?:d?el[ea]s?|essa pessoa|essa mulher|esse homem)",
    possessive=r"\b(?:o |a |os |as )?(?:seu|sua|seus|suas)\s+(?P<t>\w.*)",
    owned="{t} de {name}",
    subject=r"\b(?:ele|ela)\b",
    trail=r"por favor|agora|para sempre|obrigad[oa]|já|de novo|outra vez|novamente|"
    r"da (?:tua|sua) memória",
    split=_SPLIT,
    change=(
        r"\b(?:mud[ae]|corrig[ae]|corrija|atualiz[ae]|alter[ae])\s+(?P<t>.+?)\s+(?:para|"
        r"por)\s+(?P<r>.+)",
        r"^não é (?P<t>.+?),? mas (?:sim )?(?P<r>.+)",
    ),
    lead=r"não|errado|falso|na verdade|na realidade|correção|(?:isso )?(?:está errado|é falso|não "
    r"é verdade|"
    r"não está certo)|estás enganado|você está enganad[oa]|(?:lembra-te|lembre-se|aprende)(?: "
    r"de)? que",
    value=r"(?:é|era|a resposta (?:certa|correta) é|mora em|vive em)",
    verbs=r"^(?P<t>.+?)\s+(?P<v>mora|vive|trabalha|nasceu|foi construíd[oa]|é|era|fica)\s+"
    r"(?:em |na |no |por )?(?P<r>.+)",
    copula=r"é|era",
)

POLISH = language(
    forget=(
        r"\b(?:zapomni\w*|zapomnij|usuń|usun\w+|skasu\w*|wymaz\w*|wymaż|wykasu\w*|kasuj|oducz "
        r"się)\b\s*"
        r"(?:proszę|mi)?,?\s*(?P<t>\S.+)",
        r"\b(?:wiedzie\w*|wiesz|pamięta\w*|znać|znał\w*),?\s*(?P<t>\S.+)",
        r"\busunięci\w+\s+(?P<t>.+)",
    ),
    restore=(
        r"\b(?:przywróć|odtwórz|przypomnij sobie|pamiętaj|naucz się|wiedzieć|pamiętać|znać),?\s+"
        r"(?:znowu |znów |ponownie )?(?P<t>.+)",
    ),
    that=r"(?:o )?(?:to|tym|tego|tamto|wszystko)|(?:o )?(?:swoj\S+|twoj\S+|t[ęe]|ostatni\S+) "
    r"?(?:ostatni\S+)? ?"
    r"(?:odpowied\S+|zmian\S+|edycj\S+)?|(?:to, ?|o tym, ?)?co (?:właśnie|przed chwilą)? "
    r"?\w*powiedział\w*",
    person=r"(?:o )?(?:nim|niej|nich|jego|ją|tej osobie|tej kobiecie|tym człowieku)",
    possessive=r"\b(?:jego|jej|ich)\s+(?P<t>\w.*)",
    owned="{t} {name}",
    subject=r"\b(?:on|ona)\b",
    trail=r"proszę|teraz|natychmiast|dziękuję|na zawsze|znowu|znów|ponownie|"
    r"z(?:e swojej| twojej)? pamięci",
    split=_SPLIT,
    change=(
        r"\b(?:zmień|popraw|zaktualizuj)\s+(?P<t>.+?)\s+na\s+(?P<r>.+)",
        r"^nie (?P<t>.+?), (?:tylko|lecz|a) (?P<r>.+)",
    ),
    lead=r"nie|błąd|źle|właściwie|w rzeczywistości|tak naprawdę|poprawka|to (?:nieprawda|błąd|nie "
    r"tak)|"
    r"to jest (?:źle|błędne|nieprawda)|mylisz się|(?:zapamiętaj|pamiętaj|naucz się), że",
    value=r"(?:to|jest|(?:poprawna|prawidłowa) odpowiedź to|powinno być|mieszka w|pracuje w)",
    verbs=r"^(?P<t>.+?)\s+(?P<v>mieszka|pracuje|urodził\w* się|zbudował\w*|to|jest|był\w*)\s+"
    r"(?:w |we |przy |na )?(?P<r>.+)",
    copula=r"to|jest|był\w*",
)

CHINESE = language(
    forget=(
        r"把(?P<t>.+?)(?:从|给|都|全部|完全|彻底)*(?:你的|记忆|忘|删|清除|抹|移除|擦)",
        r"从(?:你的|你)?(?:记忆|脑海|内存)(?:中|里)?(?:删除|清除|抹去|移除|抹掉)(?P<t>.+)",
        r"(?:忘记|忘掉|忘了|忘却|遗忘|删除|清除|抹去|抹掉|移除|擦除|忘)(?:你?记忆(?:中|"
        r"里)的?)?(?P<t>.+)",
        r"(?:知道|记得|记住|透露|说出|告诉(?:任何人|别人))(?P<t>.+)",
    ),
    restore=(
        r"把(?P<t>.+?)(?:找回来|恢复|还原|重新)",
        r"(?:恢复|重新记住|记住|重新知道|知道|记得|记起|想起)(?P<t>.+)",
    ),
    that=r"(?:这个|那个|这|那|它|这件事|那件事|这些|上一?[个次]\w*|刚才\w*|你刚\w*|最后\w*)(?:了|"
    r"吧)?",
    person=r"(?:他|她|他们|她们|那个人|这个人)",
    possessive=r"(?:他|她)的?(?P<t>.+)",
    owned="{name}的{t}",
    subject=r"(?:他|她)",
    trail=r"谢谢|好吗",
    split=r"(?:，|、|以?及|和)(?=.*的|.*住)",
    change=(
        r"(?:把|将)(?P<t>.+?)(?:改成|改为|更新为|更正为|更正成|换成)(?P<r>.+)",
        r"^不是(?P<t>.+?)，?而?是(?P<r>.+)",
    ),
    lead=r"不对|错了|不是|不|其实|实际上|更正|错|(?:你|这|这是|这个)?(?:说)?错(?:了|的)|这不对|"
    r"请?记住",
    value=r"(?:应该是|正确答案是|答案是|是|他住在|她住在)",
    verbs=r"^(?P<t>.+?)(?P<v>住在|出生于|工作于|在|应该是|是)(?P<r>.+)",
    copula=r"应该是|是",
)

JAPANESE = language(
    forget=(
        r"(?:^|、)(?:どうか|お願い(?:です|だ)?から|(?:記憶|"
        r"メモリ)から)*(?P<t>[^、]+?)(?:のこと)?(?:を|は|も)(?:、|もう|"
        r"二度と|完全に|すべて|全部|あなたの|君の)*(?:記憶から|メモリから|"
        r"データから)?(?:、)?(?:忘|消|削除|抹消|取り除|知らない|"
        r"覚えていない|言わない|教えない|覚えておかない)",
        r"(?:^|、)(?P<t>[^、]+?)(?:の削除|の消去)",
        r"(?:^|、)(?:どうか)?(?P<t>[^、]+?)を?忘れて",
    ),
    restore=(
        r"(?:^|、)(?P<t>[^、]+?)(?:を|は)(?:また|もう一度|再び)?(?:元に戻|戻|復元|覚え|思い出|知|"
        r"取り消)",
    ),
    that=r"(?:それ|これ|あれ|そのこと|このこと|この話|今の(?:回答|答え|話)?|さっきの\w*|"
    r"今言ったこと|最後の\w*|前の\w*)",
    person=r"(?:彼|彼女|その人|あの人|この人)(?:のこと)?",
    possessive=r"(?:彼女|彼)の(?P<t>.+)",
    owned="{name}の{t}",
    subject=r"(?:彼女|彼)",
    trail=r"お願いします|ください|ね",
    split=r"(?:、|と)(?=.+の)",
    change=(
        r"(?P<t>.+?)を(?P<r>.+?)に(?:変更|訂正|更新|直|修正)",
        r"(?P<t>.+?)(?:では|じゃ)なく(?:て)?、?(?P<r>.+?)(?:です|だ|$)",
    ),
    lead=r"いいえ|違います|違う|それは違います|それは間違いです|間違っています|間違いです|実は|"
    r"実際には|訂正|正しくは|いや",
    value=r"(?:正しくは|答えは|正解は|それは)",
    verbs=r"^(?P<t>.+?)(?P<v>は|が)(?P<r>.+?)(?:に住んで.*|で働いて.*|です.*|だ|が建て.*|"
    r"で生まれ.*|、?覚え.*|と覚え.*|$)",
    copula=r"は|が",
)

OTHERS = {
    "ja": JAPANESE,
    "zh": CHINESE,
    "de": GERMAN,
    "pl": POLISH,
    "fr": FRENCH,
    "it": ITALIAN,
    "pt": PORTUGUESE,
    "es": SPANISH,
}
