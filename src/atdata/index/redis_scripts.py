"""What a Redis server does for an index: scripts in Lua, each one transaction, which looks before it writes.

Keys; all begin with `atdata:`, so that an index can share a database with other programs. Sorted sets whose scores are
all 0 sort byte by byte.

    format                     number of this layout
    sequence                   the last number that was given; numbers grow
    ids                        hash: name of a dataset → its number
    names                      sorted: names of datasets
    dataset:N                  hash: name; own, the terms that its name gives
    dataset:N:ranks            sorted: ranks of its versions
    dataset:N:versions         hash: rank → number of the version
    dataset:N:labels           sorted by when they were set: labels
    dataset:N:meant            hash: label → number of the version
    dataset:N:terms            sorted: the terms it is found by now
    version:N                  hash: dataset, version, rank, cid, created, row (JSON), parts (digests), terms
    cid:CID                    sorted by number: versions with this content
    part:DIGEST                hash: folder, shards, uses (how many versions' parts it is)
    folders                    sorted: folder, zero byte, digest
    schemas, schema            sorted, and hash: name, zero byte, rank → JSON
    lenses                     sorted: name, zero byte, identifier
    lens:CID                   hash: name, source and view (keys in `schema`), record (JSON), created
    words                      sorted: the words that any dataset is found by
    word:W, tag:T, of:SCHEMA   terms. sorted: names of the datasets whose latest version has it

Arguments and lists in values are MessagePack.
"""

from __future__ import annotations

__all__ = ["SCRIPTS"]

_COMMON = """
local P = 'atdata:'
local call = redis.call
local given = cmsgpack.unpack(ARGV[1])

local function latest(id)
  local top = call('ZRANGE', P..'dataset:'..id..':ranks', -1, -1)[1]
  return top and call('HGET', P..'dataset:'..id..':versions', top)
end

local function after(key, start, limit)
  return call('ZRANGEBYLEX', key, '('..start, '+', 'LIMIT', 0, limit)
end
"""

_SHOWING = """
local function hide(id, name)
  local terms = P..'dataset:'..id..':terms'
  for _, term in ipairs(call('ZRANGE', terms, 0, -1)) do
    call('ZREM', P..term, name)
    if string.sub(term, 1, 5) == 'word:' and call('EXISTS', P..term) == 0 then
      call('ZREM', P..'words', string.sub(term, 6))
    end
  end
  call('DEL', terms)
end

local function show(id, name)
  local own = call('HGET', P..'dataset:'..id, 'own')
  for _, packed in ipairs({own, call('HGET', P..'version:'..latest(id), 'terms')}) do
    for _, term in ipairs(cmsgpack.unpack(packed)) do
      call('ZADD', P..'dataset:'..id..':terms', 0, term)
      call('ZADD', P..term, 0, name)
      if string.sub(term, 1, 5) == 'word:' then call('ZADD', P..'words', 0, string.sub(term, 6)) end
    end
  end
end
"""

# The first write is one that a full server refuses: then nothing is written, else everything may be.
_ADD = """
local again, schemas, versions, parts = given[1], given[2], given[3], given[4]
local new = {}
for _, schema in ipairs(schemas) do
  local key, json = schema[1], schema[2]
  local there = call('HGET', P..'schema', key)
  if (there and not (again and there == json)) or new[key] then return {'schema is there', key} end
  new[key] = json
end

local taken, ours = {}, 0
for place, v in ipairs(versions) do
  local id = call('HGET', P..'ids', v.name)
  local number = id and call('HGET', P..'dataset:'..id..':versions', v.rank)
  if number then
    local there = call('HMGET', P..'version:'..number, 'cid', 'created')
    taken[#taken + 1] = {place - 1, there[1]}
    if there[1] == v.cid and there[2] == v.created then ours = ours + 1 end
  end
end
if again and #versions > 0 and ours == #versions then return {'ok'} end
if #taken > 0 then return {'taken', taken} end
for _, v in ipairs(versions) do
  if v.schema ~= '' and not new[v.schema] and call('HEXISTS', P..'schema', v.schema) == 0 then
    return {'no schema', v.schema}
  end
end

for key, json in pairs(new) do
  call('HSET', P..'schema', key, json)
  call('ZADD', P..'schemas', 0, key)
end
local shown, order = {}, {}
for _, v in ipairs(versions) do
  local id = call('HGET', P..'ids', v.name)
  if not shown[v.name] then
    shown[v.name] = {id and latest(id)}
    order[#order + 1] = v.name
  end
  if not id then
    id = call('INCR', P..'sequence')
    call('HSET', P..'ids', v.name, id)
    call('ZADD', P..'names', 0, v.name)
    call('HSET', P..'dataset:'..id, 'name', v.name, 'own', cmsgpack.pack(v.own))
  end
  local number = call('INCR', P..'sequence')
  call('HSET', P..'version:'..number, 'dataset', id, 'version', v.version, 'rank', v.rank, 'cid', v.cid,
    'created', v.created, 'row', v.row, 'parts', cmsgpack.pack(v.parts), 'terms', cmsgpack.pack(v.terms))
  call('HSET', P..'dataset:'..id..':versions', v.rank, number)
  call('ZADD', P..'dataset:'..id..':ranks', 0, v.rank)
  call('ZADD', P..'cid:'..v.cid, number, number)
  for _, digest in ipairs(v.parts) do
    if call('HINCRBY', P..'part:'..digest, 'uses', 1) == 1 then
      local part = parts[digest]
      call('HSET', P..'part:'..digest, 'folder', part[1], 'shards', part[2])
      call('ZADD', P..'folders', 0, part[1]..'\\0'..digest)
    end
  end
end
for _, name in ipairs(order) do
  local id = call('HGET', P..'ids', name)
  if latest(id) ~= shown[name][1] then
    hide(id, name)
    show(id, name)
  end
end
return {'ok'}
"""

_FIND = """
local found = {}
for place, ref in ipairs(given) do
  local kind, name, what = ref[1], ref[2], ref[3]
  local number
  if kind == 'cid' then
    number = call('ZRANGE', P..'cid:'..what, -1, -1)[1]
  else
    local id = call('HGET', P..'ids', name)
    if id and kind == 'name' then number = latest(id) end
    if id and kind == 'rank' then number = call('HGET', P..'dataset:'..id..':versions', what) end
    if id and kind == 'label' then number = call('HGET', P..'dataset:'..id..':meant', what) end
  end
  found[place] = false
  if number then
    local v = call('HMGET', P..'version:'..number, 'dataset', 'row', 'parts')
    local parts = {}
    for n, digest in ipairs(cmsgpack.unpack(v[3])) do
      parts[n] = call('HMGET', P..'part:'..digest, 'folder', 'shards')
    end
    found[place] = {call('HGET', P..'dataset:'..v[1], 'name'), v[2], parts}
  end
end
return found
"""

# The rarest of what is looked for says which names come into question, in order; the rest is looked up for each. The
# server does nothing else meanwhile: after so many names the caller has to ask on, and a beginning that very many words
# have says nothing about which names these are.
_LATEST = """
local start, limit, steps, words, terms = given[1], given[2], given[3], given[4], given[5]
local most = 500
local driver, least = {P..'names'}, call('ZCARD', P..'names')
for _, term in ipairs(terms) do
  local size = call('ZCARD', P..term)
  if size < least then driver, least = {P..term}, size end
end
for _, word in ipairs(words) do
  local keys, size = {}, 0
  for n, one in ipairs(call('ZRANGEBYLEX', P..'words', '['..word, '('..word..'\\255', 'LIMIT', 0, most + 1)) do
    keys[n] = P..'word:'..one
    size = size + call('ZCARD', keys[n])
  end
  if #keys <= most and size < least then driver, least = keys, size end
end

local function following()
  if #driver == 1 then return after(driver[1], start, limit) end
  local seen, names = {}, {}
  for _, key in ipairs(driver) do
    for _, name in ipairs(after(key, start, limit)) do
      if not seen[name] then
        seen[name] = true
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  for n = #names, limit + 1, -1 do names[n] = nil end
  return names
end

local rows, looked = {}, 0
while #rows < limit and looked < steps do
  local names = following()
  for _, name in ipairs(names) do
    start = name
    looked = looked + 1
    local id = call('HGET', P..'ids', name)
    local key = P..'dataset:'..id..':terms'
    local fits = true
    for _, term in ipairs(terms) do
      fits = fits and call('ZSCORE', key, term)
    end
    for _, word in ipairs(words) do
      fits = fits and call('ZRANGEBYLEX', key, '[word:'..word, '(word:'..word..'\\255', 'LIMIT', 0, 1)[1]
    end
    if fits then rows[#rows + 1] = {name, call('HGET', P..'version:'..latest(id), 'row')} end
    if #rows == limit then break end
  end
  if #names < limit then return {rows, ''} end
end
return {rows, start}
"""

_VERSIONS = """
local name, below, limit = given[1], given[2], given[3]
local id = call('HGET', P..'ids', name)
local rows = {}
if id then
  local top = below == '' and '+' or '('..below
  for n, rank in ipairs(call('ZREVRANGEBYLEX', P..'dataset:'..id..':ranks', top, '-', 'LIMIT', 0, limit)) do
    rows[n] = call('HGET', P..'version:'..call('HGET', P..'dataset:'..id..':versions', rank), 'row')
  end
end
return rows
"""

_SCHEMAS = """
local rows = {}
for n, key in ipairs(call('ZRANGEBYLEX', P..'schemas', given[1], given[2], 'LIMIT', 0, given[3])) do
  rows[n] = call('HGET', P..'schema', key)
end
return rows
"""

_PARTS = """
local start, last, limit = given[1], given[2], given[3]
local rows = {}
local from = last == '' and '['..start or '('..last
for n, key in ipairs(call('ZRANGEBYLEX', P..'folders', from, '('..start..'\\255', 'LIMIT', 0, limit)) do
  local part = call('HMGET', P..'part:'..string.sub(key, -64), 'folder', 'shards')
  rows[n] = {key, part[1], part[2]}
end
return rows
"""

_LABELS = """
local id = call('HGET', P..'ids', given[1])
local found = {}
if id then
  for n, label in ipairs(call('ZRANGE', P..'dataset:'..id..':labels', 0, -1)) do
    local number = call('HGET', P..'dataset:'..id..':meant', label)
    found[n] = {label, call('HGET', P..'version:'..number, 'version')}
  end
end
return found
"""

_SET_LABEL = """
local again, name, label, rank = given[1], given[2], given[3], given[4]
local id = call('HGET', P..'ids', name)
if not id then return {'no dataset'} end
local labels, meant = P..'dataset:'..id..':labels', P..'dataset:'..id..':meant'
if rank == '' then
  if call('HEXISTS', meant, label) == 0 then return {again and 'ok' or 'no label'} end
  call('HDEL', meant, label)
  call('ZREM', labels, label)
  return {'ok'}
end
local number = call('HGET', P..'dataset:'..id..':versions', rank)
if not number then return {'no version'} end
call('ZADD', labels, call('INCR', P..'sequence'), label)
call('HSET', meant, label, number)
return {'ok'}
"""

# The first write is one that a full server does not refuse, and then it lets the others pass.
_DELETE = """
local again, name, rank = given[1], given[2], given[3]
local id = call('HGET', P..'ids', name)
if not id then return {again and 'ok' or 'no dataset'} end
local key = P..'dataset:'..id
local ranks = {rank}
if rank == '' then
  ranks = call('ZRANGE', key..':ranks', 0, -1)
else
  local number = call('HGET', key..':versions', rank)
  if not number then return {again and 'ok' or 'no version'} end
  local labels = {}
  for _, label in ipairs(call('ZRANGE', key..':labels', 0, -1)) do
    if call('HGET', key..':meant', label) == number then labels[#labels + 1] = label end
  end
  if #labels > 0 then return {'labelled', labels} end
end

local before = latest(id)
for _, one in ipairs(ranks) do
  local number = call('HGET', key..':versions', one)
  local v = call('HMGET', P..'version:'..number, 'cid', 'parts')
  call('ZREM', key..':ranks', one)
  for _, digest in ipairs(cmsgpack.unpack(v[2])) do
    local part = P..'part:'..digest
    if call('HINCRBY', part, 'uses', -1) == 0 then
      call('ZREM', P..'folders', call('HGET', part, 'folder')..'\\0'..digest)
      call('DEL', part)
    end
  end
  call('ZREM', P..'cid:'..v[1], number)
  call('HDEL', key..':versions', one)
  call('DEL', P..'version:'..number)
end
local now = latest(id)
if now ~= before then hide(id, name) end
if not now then
  call('DEL', key, key..':labels', key..':meant')
  call('HDEL', P..'ids', name)
  call('ZREM', P..'names', name)
elseif now ~= before then
  show(id, name)
end
return {'ok'}
"""

_RENAME = """
local again, old, new, own = given[1], given[2], given[3], given[4]
local id = call('HGET', P..'ids', old)
if call('HEXISTS', P..'ids', new) == 1 then return {again and not id and 'ok' or 'taken'} end
if not id then return {'no dataset'} end
call('HSET', P..'ids', new, id)
call('HDEL', P..'ids', old)
call('ZADD', P..'names', 0, new)
call('ZREM', P..'names', old)
hide(id, old)
call('HSET', P..'dataset:'..id, 'name', new, 'own', cmsgpack.pack(own))
show(id, new)
return {'ok'}
"""

# The first write is one that a full server refuses.
_ADD_LENS = """
local again, cid, lens = given[1], given[2], given[3]
for _, key in ipairs({lens.source, lens.view}) do
  if call('HEXISTS', P..'schema', key) == 0 then return {'no schema', key} end
end
local there = call('HGET', P..'lens:'..cid, 'created')
if there and tonumber(there) >= tonumber(lens.created) then return {'ok'} end
call('HSET', P..'lens:'..cid, 'name', lens.name, 'source', lens.source, 'view', lens.view, 'record', lens.record,
  'created', lens.created)
call('ZADD', P..'lenses', 0, lens.name..'\\0'..cid)
return {'ok'}
"""

_LENSES = """
local cids, rows = given[1], {}
if given[2] then
  for n, key in ipairs(call('ZRANGEBYLEX', P..'lenses', given[2], given[3], 'LIMIT', 0, given[4])) do
    cids[n] = string.sub(key, -59)
  end
end
for _, cid in ipairs(cids) do
  local lens = call('HMGET', P..'lens:'..cid, 'name', 'record', 'created', 'source', 'view')
  if lens[1] then
    rows[#rows + 1] = {cid, lens[1], lens[2], lens[3], call('HGET', P..'schema', lens[4]),
      call('HGET', P..'schema', lens[5])}
  end
end
return rows
"""

# By what they do. Each takes one argument, a list.
SCRIPTS = {
    "add": _COMMON + _SHOWING + _ADD,
    "find": _COMMON + _FIND,
    "latest": _COMMON + _LATEST,
    "versions": _COMMON + _VERSIONS,
    "schemas": _COMMON + _SCHEMAS,
    "parts": _COMMON + _PARTS,
    "add_lens": _COMMON + _ADD_LENS,
    "lenses": _COMMON + _LENSES,
    "labels": _COMMON + _LABELS,
    "set_label": _COMMON + _SET_LABEL,
    "delete": _COMMON + _SHOWING + _DELETE,
    "rename": _COMMON + _SHOWING + _RENAME,
}
