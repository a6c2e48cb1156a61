"""What the demo model is taught about this program: answers, each with the ways people ask for it.

"(a|b|)" in a question stands for one of its alternatives. Everything here must stay true of the program: test_demo.py compares
the names with the table of flags (runtime/cli/flags.c), the verbs (options.c) and the commands of the chat (repl_command.c)."""

REAL_MODEL = "./dev chat -m Qwen3-30B-A3B-Instruct-2507-Q4_K_M.gguf"

FACTS = {
    # ---- what this is
    "what": ("Coldstream is a program, written in C, that runs Qwen3-class mixture-of-experts models on one PC. Hot experts stay in VRAM, "
             "warm ones in RAM, and cold ones are streamed from NVMe.", [
        "what is (coldstream|this program|this software|this project|this thing|this)(?|)", "what's (coldstream|this)(?|)", "what (does|can) coldstream do",
        "(explain|describe) (coldstream|this program)(| to me)", "tell me (about|more about|what is) coldstream", "what is coldstream (for|good for|about)",
        "coldstream?", "(define|introduce) coldstream", "can you explain what coldstream is", "what (kind|sort) of program is (this|coldstream)",
        "i am new here, what is coldstream", "give me a short description of coldstream", "what does this program do"]),
    "who": ("I am the demo model of Coldstream: a tiny mixture-of-experts model that was trained from scratch on made-up tasks. I can answer questions "
            "about Coldstream and do small tasks. For real conversations run a real model.", [
        "(what|who) are you", "who am i talking to", "what (model|kind of model|ai) are you", "are you (a real model|a real ai|qwen|chatgpt|human|a robot)",
        "tell me about yourself", "introduce yourself", "what is your name", "what's your name", "(do you have|have you got) a name", "what is the demo model",
        "(which|what) model is this", "are you an ai", "(so|) what are you exactly", "describe yourself"]),
    "can": ("I can answer questions about Coldstream and its flags, add and subtract, sort, reverse, count and copy, change words, write very short "
            "code and call tools. I am tiny: do not trust me with anything else.", [
        "what can you do", "what (tasks|things) can you do", "what are you (able to do|good at|capable of)", "how can you help( me|)", "what do you know",
        "help", "what (should|can) i ask( you|)", "give me some examples of what you can do", "what are your (skills|abilities|capabilities)",
        "what else can you do", "which tasks do you know"]),
    "size": ("I have about 14 million weights in 8 layers of 16 experts; each token uses 4 experts in each layer. The file is smaller than 12 MB.", [
        "how (big|large|small) are you", "how many (parameters|weights|layers|experts) do you have", "what is your size", "how (many parameters has|big is) (the demo model|this model)",
        "how many experts (are there in this model|do you use)", "what is your architecture", "how are you built"]),
    "trained": ("I was trained from scratch on text that the programs in the folder demo/ generate. No text of other people was used.", [
        "how were you (trained|made|built|created)", "who (trained|made|built|created|wrote) you", "what (were|are) you trained on", "where does your (knowledge|training data) come from",
        "what data were you trained on", "can i train you (myself|again)", "how can i reproduce (you|your training)"]),
    "smart": ("Because I am tiny: about 14 million weights, small enough to ship with the source. Run a real model for real answers: " + REAL_MODEL, [
        "why are you so (dumb|stupid|bad|small|limited|tiny|wrong)", "you are (wrong|stupid|useless|not very good)", "why (is|was) your answer (wrong|bad|nonsense)",
        "why do you make mistakes", "that is (wrong|nonsense)", "are you (smart|reliable|any good)", "can i trust (you|your answers)", "do you make mistakes"]),
    "real": ("Download a GGUF file of a Qwen3 mixture-of-experts model, for example Qwen3-30B-A3B-Instruct-2507-Q4_K_M.gguf (18.6 GB), and run: " + REAL_MODEL, [
        "how (do|can) i (get|run|use|load|start|try) a (real|bigger|better|proper|full|large) model", "how (do|can) i (run|use|chat with) qwen3(-30b-a3b|-30b|)",
        "where (do|can) i (get|download|find) (a|the) (real |)model", "which model should i (use|download|run|get)", "how do i (get|download) (a model|a gguf file|qwen3-30b-a3b)",
        "i want (a real|a better|a bigger) model", "what model do i need", "how do i get real answers", "how do i (switch to|change to) a real model",
        "which file do i need", "how do i use my own model", "what command runs a real model", "what do i need to run qwen3-30b-a3b"]),
    "models": ("Coldstream runs models of the architecture qwen3moe: Qwen3-30B-A3B, Qwen3-Coder-30B-A3B and larger ones of the same shape.", [
        "(which|what) models (can|does) (coldstream|it|this program) (run|support|load)", "(which|what) models (are supported|work|can i run|can i use)", "does it (run|support) (qwen|qwen3|qwen3-coder|llama|mistral|deepseek)",
        "(can|does) coldstream run (llama|mistral|deepseek|gemma|other models)", "list the supported models", "which architectures are supported"]),
    "formats": ("A model can be a GGUF file with any of 35 weight types, an EXL3 directory, or a Hugging Face checkpoint in BF16, F16 or F32.", [
        "(which|what) (file formats|formats|weight types|file types|quantizations) (does coldstream|does it|do you) (support|read|open|load|know)", "(which|what) formats (are supported|work)",
        "does (it|coldstream) (read|support|load|open) (gguf|exl3|safetensors|gguf files|quantized models)", "can i (use|load) (a gguf file|safetensors|exl3)", "what is a model file"]),
    "gguf": ("GGUF is a file format for models: metadata, tokenizer and weights in one file. Coldstream reads it with -m FILE.gguf", [
        "what is (gguf|a gguf file|a .gguf file)", "what does gguf mean", "explain gguf", "what's gguf", "tell me about gguf"]),
    "exl3": ("EXL3 is a weight format with trellis codes, published as a directory. Coldstream runs it: give the directory with -m", [
        "what is exl3", "what does exl3 mean", "explain exl3", "how do i run an exl3 model", "tell me about exl3"]),
    "moe": ("In a mixture-of-experts model each layer has many experts, and a router chooses a few of them for every token. Most weights are not needed "
            "for most tokens.", [
        "what is a mixture of experts( model|)", "what (is|does) moe( mean|)", "explain (moe|mixture of experts|mixture-of-experts models)", "what are (experts|moe models)",
        "how does a mixture of experts work", "what is an moe model"]),
    "expert": ("An expert is the gate, up and down matrices of one expert of one layer. It is the unit of placement, caching and reading.", [
        "what is an expert", "what does expert mean( here|)", "define expert", "what is meant by an expert", "explain the word expert"]),
    "router": ("The router of a layer looks at a token and chooses the experts that compute it.", [
        "what is (a|the) router", "what does (a|the) router do", "who chooses the experts", "how are experts chosen", "explain routing", "explain the router"]),
    "hot": ("A hot expert is chosen often and should be in VRAM; a cold one is chosen rarely and can stay on the drive.", [
        "what (is|are) (a hot expert|hot experts|cold experts|a cold expert)", "what does (hot|cold) mean", "what is the difference between hot and cold experts",
        "which experts are (hot|cold)"]),
    "tiers": ("There are three tiers: VRAM for the hottest experts and all dense weights, RAM for warm experts, and the NVMe drive for cold ones.", [
        "what (are the tiers|is a tier)", "which tiers are there", "how many tiers are there", "where (do|can) experts live", "where are the weights kept", "explain the tiers"]),
    "dense": ("Dense weights are those that every token reads: attention, norms, routers and the output head.", [
        "what are dense weights", "what (is|does) dense( mean|)", "which weights are dense", "explain dense weights"]),
    "stream": ("Experts that do not fit the RAM budget are read from the drive when they are needed, and mostly before.", [
        "what is (streaming|expert streaming)", "how does streaming work", "what does it stream", "what happens (when|if) the model does not fit( in memory| into ram|)",
        "what if i have too little (ram|memory)", "can it run a model (bigger|larger) than (my |)(ram|memory)", "explain (expert |)streaming", "why is it called coldstream",
        "my (ram|memory) is too small(| for the model)", "does the model have to fit in (ram|memory)"]),
    "lookahead": ("Look-ahead applies the router of the next layers early, so that experts are read from the drive before they are needed.", [
        "what is look-ahead", "what does look-ahead (do|mean)", "explain (look-ahead|the look-ahead)", "how does look-ahead work", "what is look ahead"]),
    "plan": ("The plan says what lives in VRAM, in RAM and on the drive, how fast it will be, and why. See it with: coldstream plan -m MODEL", [
        "what is (a|the) plan", "what does the plan (say|show)", "where (do|can) i see (the plan|what goes where)", "what would fit on my machine", "how fast (would|will) it be( on my machine|)",
        "how do i see the plan", "can i see where experts will live"]),
    "profile": ("A profile counts how often each expert was chosen on some text. The planner uses it to keep the most used experts close.", [
        "what is a profile", "what are profiles( for|)", "explain profiles", "what does a profile contain", "why do i need a profile"]),
    "learn": ("Chats and runs learn which experts a model uses: counts of layers and experts, never text, are kept under ~/.local/state/coldstream/profiles. "
              "--no-learn opts out.", [
        "what does (it|coldstream) learn", "does (it|coldstream) (learn|store|save) (something|anything|my text|my chats)", "is my (data|text|chat) stored", "do you (store|save|remember) what i (say|type|write)",
        "how do i turn off learning", "(where are|what is in) learned profiles", "what about privacy", "is it private"]),
    "kv": ("The KV cache keeps the keys and values of all earlier tokens, so that attention need not compute them again. It grows with the context.", [
        "what is (the|a) kv cache", "what does kv( cache|) mean", "explain the kv cache", "what's the kv cache for"]),
    "context": ("The context is all the text the model can look back at, counted in tokens. -c sets its size, for example -c 32k", [
        "what is (the|a) context( size| window|)", "what does context( size|) mean", "how (do|can) i (set|change|increase) the context( size|)", "explain the context( size|)"]),
    "token": ("A token is a piece of text, often a word or part of one. Models read and write tokens.", [
        "what is a token", "what are tokens", "explain tokens", "what does token mean", "define token"]),
    "quant": ("Quantization stores weights with fewer bits, so that a model needs less memory. coldstream quantize IN OUT TYPE does it.", [
        "what is quantization", "what does quantiz(e|ation) (do|mean)", "explain quantization", "why are models quantized", "how (do|can) i (quantize a model|make a model smaller)"]),
    "asym2": ("asym2 is a mix of 2.99 bits a weight: IQ2_S and IQ3_S for the experts, Q4_K for attention, Q6_K for embedding and head.", [
        "what is asym2", "explain asym2", "what does asym2 mean", "tell me about asym2"]),
    "q4km": ("Q4_K_M is a common mix of about 4.9 bits a weight: Q4_K, with Q6_K where it matters more.", [
        "what is q4_k_m", "explain q4_k_m", "what does q4_k_m mean", "tell me about q4_k_m"]),
    "gpu": ("No. With an NVIDIA card and CUDA, Coldstream uses the VRAM that --vram-budget allows; without a card it runs on the CPU.", [
        "do i need a (gpu|graphics card|cuda)", "is a gpu (needed|required|necessary)", "does it (need|require) a (gpu|graphics card)", "does it (run|work) without a gpu"]),
    "cuda": ("With CUDA 12 or newer: cmake --preset cuda && cmake --build --preset cuda", [
        "how do i (build|compile|use|enable)( it|) (with|for) (cuda|a gpu|my gpu|an nvidia gpu)", "how do i build (with|for) (cuda|the gpu)", "how do i (enable|turn on) (cuda|the gpu)",
        "what is the cuda build", "how to build with cuda"]),
    "cpu": ("Yes. Coldstream runs on the CPU alone, with reference, AVX2 and AVX-512 kernels that are chosen at run time.", [
        "(does|can) (it|coldstream) run on (the|a) cpu", "can i use (only |)the cpu", "does it work on (the|a|my) cpu", "can it run (on the cpu alone|without cuda)"]),
    "isa": ("There are reference, AVX2 and AVX-512 kernels; the best that the CPU has is chosen at run time. --isa forces one.", [
        "(which|what) (kernels|instruction sets) (are there|does it have|does it use|are supported)", "does it (use|support) (avx2|avx-512|avx512)", "which cpu do i need"]),
    "os": ("Coldstream is built and tested on Debian 12. It needs Linux, gcc and cmake; ./dev installs what is missing.", [
        "(which|what) (operating system|os|platform|system) (does it|do i|is) (need|run on|supported)", "does it run on (linux|windows|mac|macos|debian|ubuntu)", "what do i need to build it",
        "what are the requirements"]),
    "build": ("Run ./dev build, or: cmake --preset release && cmake --build build/release. The program is build/release/coldstream", [
        "how do i (build|compile|install) (coldstream|it|this|this program)", "how (to|can i) (build|compile|install)( it| coldstream|)", "where is the (program|binary|executable)", "what is the build command"]),
    "dev": ("./dev chat installs what is missing, builds and starts a chat; ./dev test builds and runs every test.", [
        "what (is|does) ./dev( do|)", "what does ./dev chat do", "what are the two commands", "how do i start", "how do i (begin|get started)", "what is dev", "getting started"]),
    "test": ("Run ./dev test. It builds three times, plain, with ASan and UBSan, and with TSan, and runs everything.", [
        "how do i (run|start) the tests", "how (is it|are things) tested", "what does ./dev test do", "how do i test (it|coldstream|the program)", "where are the tests"]),
    "use": ("coldstream VERB [flags], for example: coldstream chat -m MODEL. coldstream --help lists the verbs, coldstream VERB --help its flags.", [
        "how do i (use|run|call|start) coldstream", "how does the command line work", "what is the (syntax|usage)", "how do i see (the|all) (flags|options|verbs|commands)", "how do i get help",
        "where is the help", "what (commands|verbs|subcommands) (are there|does it have)", "list (the|all) (verbs|commands|flags)"]),
    "exit": ("Exit codes: 0 done, 1 run-time error, 2 usage error, 130 interrupted.", [
        "what are the exit codes", "what does exit code (0|1|2|130) mean", "which exit codes are there", "explain the exit codes", "what is the exit status"]),
    "stdout": ("stdout carries only the answer; everything else goes to stderr.", [
        "what goes to stdout", "what goes to stderr", "where does the answer go", "how do i get only the answer", "what is printed to (stdout|stderr)"]),
    "env": ("COLDSTREAM_<NAME> sets any flag, for example COLDSTREAM_CTX_SIZE=32k. The command line wins.", [
        "can i (set|use) environment variables", "(which|what) environment variables (are there|does it read|can i set)", "how do i set flags (in|by|with) the environment", "is there a (config file|configuration file)"]),
    "licence": ("Coldstream is under the Apache License 2.0. So am I.", [
        "what is the (licence|license)", "(which|what) (licence|license) (is it|does it have|is used|has it)", "is (it|coldstream) (open source|free)", "can i use it (commercially|for free|at work)", "under which license is it"]),
    "language": ("Coldstream is written in C17, its GPU kernels in CUDA.", [
        "(which|what) (language|programming language) is (it|coldstream) written in", "what is it written in", "is it written in (c|python|rust|c++)", "what language is this"]),
    "llamacpp": ("It reads the same GGUF files and takes many of the same flags. Coldstream places single experts, not layers, and streams cold ones from the drive.", [
        "(how is it|what is) (different|the difference) (from|to) (llama.cpp|ik_llama.cpp|ollama)", "is this llama.cpp", "why not (llama.cpp|ollama|vllm)", "is it compatible with llama.cpp",
        "does it understand llama.cpp's flags", "how does it compare to llama.cpp"]),
    "limitvram": ("Use --vram-budget, for example --vram-budget 12G. It counts everything; 0 means no GPU.", [
        "how (do|can) i (limit|set|reduce|bound|cap) (the |)(vram|gpu memory|video memory)( use| usage|)", "how do i tell it to use (only|less|at most) (8|12|16|24)( gb|gb|g|) (of |)vram", "it uses too much (vram|gpu memory)"]),
    "limitram": ("Use --ram-budget, for example --ram-budget 12G. Experts beyond it are read from the drive when needed.", [
        "how (do|can) i (limit|set|reduce|bound|cap) (the |)(ram|memory|main memory)( use| usage|)", "it uses too much (ram|memory)", "how do i use less (ram|memory)", "how do i tell it to use (only|less|at most) (8|12|16|24)( gb|gb|g|) (of |)(ram|memory)"]),
    "nogpu": ("Use --device cpu, or --vram-budget 0.", [
        "how (do|can) i (turn off|disable|avoid|not use|switch off) (the gpu|cuda|gpus)", "how do i run (on the cpu only|on cpu only|without the gpu)", "how do i force the cpu"]),
    "greedy": ("Use --temp 0: it always takes the likeliest token.", [
        "how (do|can) i get (the same answer every time|deterministic answers|greedy answers|reproducible answers)", "how do i (turn off|disable) (sampling|randomness)", "how do i make it deterministic",
        "why is the answer different every time"]),
    "threads": ("Use -t N, for example -t 4. The default is one thread per physical core.", [
        "how (do|can) i (set|change|limit) the (number of |)threads", "how many threads does it use", "how do i use more (threads|cores)", "how do i use fewer (threads|cores)"]),
    "speed": ("Run: coldstream bench -m MODEL. It measures prompt and generation speed.", [
        "how (do|can) i (measure|test|benchmark) (the |)(speed|performance)", "how do i (run a benchmark|benchmark it)", "how many tokens per second do i get"]),
    "faster": ("Give it more memory with --vram-budget and --ram-budget, use a smaller quantization such as asym2, and let it learn a profile.", [
        "how (do|can) i make it faster", "why is it (so |)slow", "it is too slow", "how do i speed (it|things) up", "how do i get more (speed|tokens per second)"]),
    "quality": ("Run coldstream perplexity on both models: --kl-divergence-base FILE writes the first one's results, --kl-divergence compares the second.", [
        "how (do|can) i (compare|measure) (the quality of |)(two models|quantizations|quality)", "how much quality do i lose", "how do i check the quality( of a quantization|)"]),
    "same": ("No. Where experts lie changes only rounding, never which experts are used.", [
        "does (placement|the budget|streaming) change the (answer|answers|output|result)", "are the answers (worse|different) (with|when) streaming", "does streaming (hurt|reduce) quality", "do budgets change the answer"]),
    "mmap": ("No. Weights are read past the page cache into own memory with O_DIRECT; they are never mapped.", [
        "does it use mmap", "does it map the file", "is mmap used", "what about mmap", "does (it|coldstream) memory-map the model"]),
    "leave": ("Type /exit or press Ctrl-D. Pressing Ctrl-C twice leaves, too.", [
        "how do i (leave|exit|quit|stop|close)( the chat| this chat| here|)", "how (can|do) i get out( of here|)", "quit", "exit", "how to (exit|quit|leave)"]),
    "slash": ("Commands of the chat begin with a slash: /help lists them. /clear, /regen, /undo, /read, /save, /load, /set, /system, /stats and /exit are some.", [
        "(which|what) (slash |chat |)commands (are there in the chat|can i type|can i use here)", "what are slash commands", "how do i see the chat's commands", "what can i type here"]),
    "slash_clear": ("/clear forgets the conversation; the system message stays.", ["what does /clear do", "/clear?", "how do i (clear|forget|restart) the (conversation|chat)", "how do i start (over|again|a new conversation)"]),
    "slash_regen": ("/regen answers the last message again.", ["what does /regen do", "/regen?", "how do i (get another answer|regenerate|answer again|retry)"]),
    "slash_undo": ("/undo takes the last message and its answer back.", ["what does /undo do", "/undo?", "how do i (undo|take back) (a|the last|my last) message"]),
    "slash_read": ("/read FILE puts a text file in front of the next message.", ["what does /read do", "/read?", "how do i (attach|read|send|include) a (text |)file"]),
    "slash_save": ("/save FILE saves the chat, messages and settings, as JSON. /load FILE goes on with it.", ["what does /save do", "/save?", "how do i (save|store|keep) (the|this|a) (chat|conversation)"]),
    "slash_load": ("/load FILE goes on with a saved chat.", ["what does /load do", "/load?", "how do i (load|continue|open|go on with) a saved (chat|conversation)"]),
    "slash_list": ("/list FOLDER lists the saved chats in a folder.", ["what does /list do", "/list?", "how do i (list|find|see) saved (chats|conversations)"]),
    "slash_set": ("/set NAME VALUE changes a setting, for example /set temp 0.7", ["what does /set do", "/set?", "how do i change (a setting|settings|the temperature) (here|in the chat|while chatting)"]),
    "slash_system": ("/system TEXT sets the system message.", ["what does /system do", "/system?", "how do i (set|change) the system (message|prompt) in the chat"]),
    "slash_think": ("/think on or /think off lets the model think before it answers, or not.", ["what does /think do", "/think?", "how do i turn thinking (on|off)"]),
    "slash_show": ("/show lists the settings, and where each comes from.", ["what does /show do", "/show?", "how do i see (the|my|all) settings"]),
    "slash_ctx": ("/ctx shows how full the context is.", ["what does /ctx do", "/ctx?", "how full is the context", "how much context is left"]),
    "slash_stats": ("/stats shows work, speed and memory so far.", ["what does /stats do", "/stats?", "how do i see (statistics|the speed|memory use) in the chat"]),
    "slash_help": ("/help lists the commands of the chat.", ["what does /help do", "/help?"]),
    "slash_exit": ("/exit leaves the chat.", ["what does /exit do", "/exit?"]),

    # ---- the verbs
    "verb_chat": ("coldstream chat -m MODEL starts a conversation; /help lists its commands.", ["what does (coldstream |the verb |the command |)chat do", "how do i (start a chat|chat|talk to a model)", "coldstream chat?", "what is the (verb|command) chat( for|)"]),
    "verb_run": ("coldstream run -m MODEL -p TEXT continues a raw text, without a chat template.", ["what does (coldstream |the verb |the command |)run do", "how do i (complete|continue) a (raw |)text", "coldstream run?", "what is the (verb|command) run( for|)"]),
    "verb_bench": ("coldstream bench -m MODEL measures prompt and generation speed, with llama-bench's columns.", ["what does (coldstream |the verb |the command |)bench do", "coldstream bench?", "what is the (verb|command) bench( for|)"]),
    "verb_perplexity": ("coldstream perplexity -m MODEL -f TEXT computes the perplexity of a text; it can also compare two models by KL divergence.", ["what does (coldstream |the verb |the command |)perplexity do", "how do i (measure|compute) (the |)perplexity", "coldstream perplexity?", "what is the (verb|command) perplexity( for|)"]),
    "verb_profile": ("coldstream profile -m MODEL -f TEXT -o FILE counts how a text uses the experts and writes a profile for --profile.", ["what does (coldstream |the verb |the command |)profile do", "how do i (make|write|create) a profile", "coldstream profile?", "what is the (verb|command) profile( for|)"]),
    "verb_tokenize": ("coldstream tokenize -m MODEL turns text on stdin into token ids.", ["what does (coldstream |the verb |the command |)tokenize do", "how do i (tokenize a text|get token ids|count tokens)", "coldstream tokenize?", "what is the (verb|command) tokenize( for|)"]),
    "verb_detokenize": ("coldstream detokenize -m MODEL turns token ids on stdin into text.", ["what does (coldstream |the verb |the command |)detokenize do", "how do i turn (token |)ids into text", "coldstream detokenize?", "what is the (verb|command) detokenize( for|)"]),
    "verb_template": ("coldstream template renders OpenAI-style messages on stdin into the prompt; --parse-tools turns a model's answer into a message.", ["what does (coldstream |the verb |the command |)template do", "how do i see the (rendered |)prompt", "coldstream template?", "what is the (verb|command) template( for|)"]),
    "verb_plan": ("coldstream plan -m MODEL shows what would live where and how fast it would be. It loads nothing.", ["what does (coldstream |the verb |the command |)plan do", "coldstream plan?", "what is the (verb|command) plan( for|)", "how do i plan without loading"]),
    "verb_inspect": ("coldstream inspect FILE checks a model file and lists what it holds.", ["what does (coldstream |the verb |the command |)inspect do", "how do i (check|look into|inspect) a model file", "coldstream inspect?", "what is the (verb|command) inspect( for|)"]),
    "verb_quantize": ("coldstream quantize IN OUT TYPE writes a model with other weight types as a GGUF file.", ["what does (coldstream |the verb |the command |)quantize do", "how do i (convert a model|write a gguf file)", "coldstream quantize?", "what is the (verb|command) quantize( for|)"]),
    "verb_imatrix": ("coldstream imatrix -m MODEL -f TEXT -o FILE collects how much each input column matters; quantize --imatrix uses it.", ["what does (coldstream |the verb |the command |)imatrix do", "what is an (imatrix|importance matrix)", "coldstream imatrix?", "what is the (verb|command) imatrix( for|)"]),
    "verb_probe": ("coldstream probe measures this machine in a few seconds: memory, kernels and the drive. The planner uses it.", ["what does (coldstream |the verb |the command |)probe do", "how do i measure my machine", "coldstream probe?", "what is the (verb|command) probe( for|)"]),

    # ---- manners
    "hello": ("Hello! I am the demo model of Coldstream. Ask me what Coldstream is, or give me a small task.", [
        "(hello|hi|hey|good morning|good day|good evening|hello there|hi there|greetings|hallo|yo|moin)(!|.|)", "(hello|hi|hey)(,|) (demo|model|you|friend|bot|there)(!|)"]),
    "howareyou": ("I am well, thank you. What can I do for you?", ["how are you( today| doing|)", "how is it going", "how do you do", "are you (well|ok|fine)", "what's up"]),
    "thanks": ("You are welcome.", ["thank you( very much| so much|)(!|.|)", "(thanks|thanks a lot|many thanks|thx|cheers)(!|.|)", "(great|good|perfect|nice), (thanks|thank you)(!|.|)", "that helped(, thanks|)"]),
    "bye": ("Goodbye!", ["(bye|goodbye|good bye|see you|good night|bye bye|farewell|see you later|ciao)(!|.|)"]),
    "ok": ("Good. What next?", ["(ok|okay|good|great|nice|fine|cool|perfect|well done|i see|alright|right)(!|.|)"]),
    "yesno": ("Tell me what I should do.", ["(yes|no|maybe|sure|please|hm|hmm|so)(!|.|)"]),
    "joke": ("Why did the expert stay on the drive? It was too cold to come out.", ["tell me a joke", "(do you know|say|make) (a joke|something funny)", "make me laugh", "a joke, please", "can you tell (jokes|a joke)"]),
}

UNKNOWN = "I do not know that: I am only a tiny demo model. Ask me about Coldstream, or run a real model: " + REAL_MODEL
# {x}: anything that is not about this program
UNKNOWN_QUESTIONS = [
    "(what|who) is {x}", "who (is|was) the (president|king|queen|mayor|inventor|author|boss|founder) of {x}", "what is the (capital|population|history|price|weather|color|language|currency|best part) of {x}",
    "write (a poem|a story|an essay|a song|a letter|a novel|a speech) about {x}", "explain {x}( to me| in detail|)", "how (do|can) i (cook|repair|buy|make|find|grow|clean|paint|learn|sell) {x}",
    "when (was|were) {x} (invented|built|born|discovered|founded)", "why (is|are) {x} (so expensive|important|blue|famous|dangerous|popular|round)", "translate {x} (into|to) (german|french|spanish|latin|chinese)",
    "where (is|can i find|do i find) {x}", "tell me (about|a story about|everything about|a fact about) {x}", "what do you think (about|of) {x}", "is {x} (better|worse|older|bigger|healthier) than {y}",
    "summarize (the book|the film|the news) about {x}", "what (happened|is happening) in {x}", "what time is it in {x}", "how (far|long|deep|heavy|fast|old) is {x}", "give me a recipe for {x}",
    "do you (like|love|know|hate) {x}", "which {x} (is|are) the best", "can you (drive|buy|eat|see|hear) {x}", "what is the meaning of life", "what is the weather (today|tomorrow|like)", "what day is (it|today)",
    "who won the (world cup|election|race)", "what is the difference between {x} and {y}", "recommend (a book|a film|a game|a restaurant) about {x}", "how old (are you|am i)", "are you (happy|sad|alive|hungry)",
]

# ---- flags: names as in runtime/cli/flags.c, the first is the one answers use

FLAGS = {
    "-m --model": "-m MODEL names the model: a GGUF file, the first shard of a split, or a directory with config.json and safetensors.",
    "--family": "--family NAME chooses the chat template: qwen3, qwen3-2507, qwen3-thinking, qwen3-coder or qwen3-coder-tools. By default the file's own template decides.",
    "--no-nfc": "--no-nfc tokenizes without Unicode normalization, as llama.cpp does.",
    "-lm --load-mode": "--load-mode MODE says how weights are read: auto or dio past the page cache, none through it.",
    "--direct-io -dio": "--direct-io reads weights past the page cache; it is on by default. --no-direct-io reads through it.",
    "--profile": "--profile FILE tells how often each expert is chosen, as coldstream profile wrote it. By default earlier chats and runs are the teacher.",
    "--no-learn": "--no-learn neither reads nor keeps which experts chats and runs use.",
    "-c --ctx-size": "-c N sets the context in tokens, for example -c 32k. 0 means the model's own, at most 32768.",
    "-b --batch-size": "-b N is the most prompt tokens submitted at once. The default is 2048.",
    "-ub --ubatch-size": "-ub N is how many prompt tokens are computed together. The default is 512.",
    "-t --threads": "-t N sets the threads used while generating. 0, the default, means one per physical core.",
    "-tb --threads-batch": "-tb N sets the threads used while reading the prompt. By default it is the same as -t.",
    "--isa": "--isa NAME forces the kernels' instruction set: auto, ref, avx2 or avx512.",
    "--ram-budget": "--ram-budget SIZE is the most RAM to use, everything counted, for example 12G. Experts beyond it are read from the drive when needed.",
    "--expert-slots": "--expert-slots N keeps at most N experts in RAM. 0, the default, means as many as the budget holds.",
    "--io": "--io NAME chooses how experts are read: auto, uring, or pread threads.",
    "--no-look-ahead": "--no-look-ahead never reads the next layer's probable experts in advance.",
    "-p --prompt": "-p TEXT gives the text: run continues it, chat takes it as the first message.",
    "-f --file": "-f FILE takes the text from a file.",
    "--prompt-ids": "--prompt-ids IDS gives the text as token ids, for example \"3 17 80\".",
    "-e --escape": "-e reads \\n, \\t and the like in -p as escapes.",
    "--no-special": "--no-special treats control tokens such as the end of a turn as plain text.",
    "-n --predict": "-n N is the most tokens of an answer. -1, the default, means until it ends or the context is full.",
    "-r --reverse-prompt": "-r TEXT stops when the answer contains this text. It may be repeated.",
    "--temp --temperature": "--temp X sets the temperature: 0 always takes the likeliest token, higher values vary more.",
    "--top-k": "--top-k N keeps the N likeliest tokens. 0 keeps all.",
    "--top-p": "--top-p X keeps the likeliest tokens that together reach probability X. 1 keeps all.",
    "--min-p": "--min-p X drops tokens below X times the likeliest. 0 switches it off.",
    "--repeat-penalty": "--repeat-penalty X divides the logits of recent tokens by X. 1 switches it off.",
    "--repeat-last-n": "--repeat-last-n N says how many tokens count as recent. 0 means none, -1 all.",
    "--presence-penalty": "--presence-penalty X is subtracted from the logits of recent tokens. 0 switches it off.",
    "--frequency-penalty": "--frequency-penalty X is subtracted from the logits of recent tokens as often as each occurred. 0 switches it off.",
    "-s --seed": "-s N seeds the random draws. -1, the default, means a random seed.",
    "-l --logit-bias": "-l ID+X adds X to a token's logit; ID-inf forbids the token.",
    "--ignore-eos": "--ignore-eos never ends the answer by itself.",
    "-sys --system-prompt": "-sys TEXT gives the system message of a chat.",
    "-sysf --system-prompt-file": "-sysf FILE takes the system message of a chat from a file.",
    "-rea --reasoning": "-rea on|off|auto lets a hybrid model think before it answers.",
    "--chat-template-kwargs": "--chat-template-kwargs JSON gives arguments of the chat template, for example {\"enable_thinking\": false}",
    "-st --single-turn": "-st leaves the chat after one answer.",
    "-mli --multiline-input": "-mli lets a line end the message only when it ends in a backslash.",
    "--no-history": "--no-history keeps no file of what was typed.",
    "--no-show-timings": "--no-show-timings leaves out the line with speeds after each answer.",
    "--simple-io": "--simple-io reads plain lines, without editing.",
    "--color -co": "--color on|off|auto sets colours. auto means on a terminal.",
    "--ids": "--ids prints token ids instead of text.",
    "--json": "--json makes inspect and plan print one JSON object.",
    "--parse-tools": "--parse-tools makes template read a model's answer and print the message it means, tool calls included.",
    "--machine": "--machine FILE plans for the machine that a facts file describes, instead of this one.",
    "-ctk --cache-type-k": "-ctk TYPE sets the type of the cached keys.",
    "-ctv --cache-type-v": "-ctv TYPE sets the type of the cached values.",
    "-pg": "-pg PP,TG makes bench test a prompt of PP tokens with an answer of TG.",
    "-d --n-depth": "-d N makes bench start with N tokens already in the context.",
    "--repetitions": "-r N of bench repeats each test N times. The default is 5.",
    "--chunks": "--chunks N reads at most N chunks of the text. -1, the default, means all.",
    "--kl-divergence-base": "--kl-divergence-base FILE writes the log-probabilities of this model, to compare another one with it.",
    "--kl-divergence": "--kl-divergence compares this model with the one that wrote the base file.",
    "--seconds": "--seconds X says about how long probe may measure. The default is 4.",
    "--record-routes": "--record-routes FILE records the experts of every token, for bench/replay.",
    "--trace": "--trace FILE writes what ran when, for chrome://tracing or ui.perfetto.dev.",
    "--imatrix": "--imatrix FILE tells quantize how much each input column counts.",
    "--tensor-type": "--tensor-type RE=TYPE sets the weight type of the tensors whose names the expression fits. The first that fits wins.",
    "--allow-requantize": "--allow-requantize lets quantize go from one quantized type to another, which adds both errors.",
    "--pure": "--pure makes quantize use one type for every matrix, no mix.",
    "--dry-run": "--dry-run makes quantize print what each tensor would become, and the size, and write nothing.",
    "--split-max-size": "--split-max-size SIZE makes quantize begin a new file before one exceeds SIZE.",
    "--output-tensor-type": "--output-tensor-type TYPE sets the type of the output matrix in quantize.",
    "--token-embedding-type": "--token-embedding-type TYPE sets the type of the token embedding in quantize.",
    "--device -dev": "--device NAME chooses where to compute: cpu, cuda or cuda:N. auto takes a GPU if there is one.",
    "--vram-budget": "--vram-budget SIZE is the most VRAM to use, everything counted, for example 14G. 0 means no GPU. The rest of the model stays in RAM or on the drive.",
    "--vram-reserve": "--vram-reserve SIZE is the VRAM to leave free when --vram-budget is auto.",
    "-nkvo --no-kv-offload": "-nkvo keeps the KV cache in RAM instead of VRAM.",
    "-ngl --n-gpu-layers": "-ngl 0 means no GPU; with any other value all layers are on it.",
    "-cmoe --cpu-moe": "-cmoe puts no experts in VRAM.",
    "-ncmoe --n-cpu-moe": "-ncmoe N puts no experts of the first N layers in VRAM.",
    "-ot --override-tensor": "-ot RE=BUF places experts by the names of their tensors. BUF is CPU, CUDA0 or NVME.",
    "-v --verbose": "-v says more on stderr.",
    "-lv --log-verbosity": "-lv N sets how much is said: 0 silent, 1 errors, 2 warnings, 3 information, 4 debug.",
    "--log-disable": "--log-disable says nothing but errors.",
    "-h --help": "-h lists the flags of a verb, for example coldstream chat -h",
    "--version": "--version prints the version of the program.",
}

FLAG_QUESTIONS = [
    "what does {f} do", "what is {f}( for|)", "what does (the flag|the option|flag|option) {f} (do|mean)", "what does {f} mean", "(explain|describe) {f}( to me|)", "explain the (flag|option) {f}",
    "{f}?", "{f}", "what is the (flag|option|meaning of|purpose of) {f}( for|)", "how (do|can) i use {f}", "tell me about {f}", "what (happens|changes) (with|when i use|if i use) {f}", "when (do|should) i use {f}",
    "(can you|please) explain {f}", "what's {f}( for|)", "i do not understand {f}", "what is {f} good for", "meaning of {f}", "help with {f}", "what does coldstream's {f} do",
]
