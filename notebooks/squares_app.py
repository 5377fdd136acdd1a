"""A page that squares a number; served by `web_app.ipynb`."""

import streamlit as st

st.title("Squares")
number = st.number_input("A number", value=3)
st.write(f"{number} squared is {number * number}")
upload = st.file_uploader("A file")
if upload is not None:
    st.write(f"{len(upload.getvalue())} bytes have come")
