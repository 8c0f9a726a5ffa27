"""A text that attacks the page."""

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'></script><b>"
    "{{ 7*7 }}{% raw %} javascript:alert(1) \u202egnihtemos\u202c \x00 `${window.hacked = 1}`"
)
